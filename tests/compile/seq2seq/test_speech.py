"""Speech to text: both networks answer as Whisper's ``generate()`` does, from a sound file on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.compile.seq2seq.seq2seqs import answers, compiled, wanted
from tests.models.speech import speech_model
from tests.models.tiny_seq2seq import save_seq2seq, tiny_seq2seq
from tests.runtime.audio.test_load import wav
from tt_edge.cli import main
from tt_edge.runtime import LLM
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.seq2seq.source import Speech

FORMS = {"native": {}, "no cache": {"backend": "sdpa"}, "static_v1": {"backend": "sdpa", "cache": "static_v1"}}


@pytest.mark.parametrize("form", FORMS)
def test_features_to_tokens(form):
    model = tiny_seq2seq("whisper")
    model.generation_config.eos_token_id = None
    generator = np.random.default_rng(0)
    sources = [generator.standard_normal((16, 100)).astype(np.float32) for _ in range(4)]
    search = {"max_new_tokens": 24, "no_repeat_ngram_size": 2}
    got = answers(compiled(model, **FORMS[form]), [2], sources, **search)
    assert got == [wanted(model, source, "input_features", **search) for source in sources]
    assert all(len(set(tokens)) > 4 for tokens in got)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A multilingual model of one second of speech, with Whisper's settings."""
    from transformers import WhisperFeatureExtractor

    folder = tmp_path_factory.mktemp("whisper") / "checkpoint"
    model = speech_model()
    save_seq2seq(model, folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("whisper") / "whisper.ttedge"
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "60"]
    assert main(["compile", str(checkpoint), "-o", str(bundle), *options]) == 0
    return bundle


def sound(frequency: float) -> np.ndarray:
    return 0.5 * np.sin(np.arange(12_000) * frequency)[:, None]


def test_a_sound_file_to_text(checkpoint, bundle, tmp_path, capsys):
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    assert main(["verify", str(bundle), "--model", str(checkpoint), "--new-tokens", "10"]) == 0
    capsys.readouterr()
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint)
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
    files = []
    for frequency in (0.05, 0.31):
        files.append(tmp_path / f"{frequency}.wav")
        files[-1].write_bytes(wav(2, sound(frequency)))
    for asked, given in (
        ([], {}),
        (["--language", "German", "--task", "translate"], {"language": "de", "task": "translate"}),
    ):
        arguments = [part for file in files for part in ("--audio", str(file))]
        assert main(["run", str(bundle), *arguments, *asked, "--max-new-tokens", "12", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        for frequency, answer in zip((0.05, 0.31), found, strict=True):
            samples = (np.round(sound(frequency) * 2**15) / 2**15).astype(np.float32)[:, 0]
            features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
            out = model.generate(
                features, max_new_tokens=12, do_sample=False, num_beams=1, force_unique_generate_call=True, **given
            )
            ours = answer["new_token_ids"]
            theirs = out[0].tolist()
            assert torch.equal(torch.tensor(theirs[-len(ours) :]), torch.tensor(ours)), (theirs, ours)
    long = tmp_path / "long.wav"
    long.write_bytes(wav(2, np.zeros((17_000, 1))))
    for arguments, message in (
        (["--audio", str(long)], "the audio is 1.1 s long, and the model takes 1 s"),
        (["--audio", str(files[0]), "--language", "xx"], "language 'xx' is unknown; choose one of de, en, fr"),
        (["--prompt", "w4"], "takes speech, and there is a text"),
        (["--audio", str(files[0]), "--prompt", "w4"], "give --prompt TEXT, or --audio FILE"),
    ):
        assert main(["run", str(bundle), *arguments])
        assert message in capsys.readouterr().err


def test_evaluated(checkpoint, bundle, tmp_path, capsys):
    """Recordings with the model's own answers and another, beside PyTorch: word error rates by hand."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(checkpoint)
    extractor, own, lines = WhisperFeatureExtractor.from_pretrained(checkpoint), [], []
    for number, frequency in enumerate((0.05, 0.31)):
        (tmp_path / f"{number}.wav").write_bytes(wav(2, sound(frequency)))
        samples = (np.round(sound(frequency) * 2**15) / 2**15).astype(np.float32)[:, 0]
        features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        out = model.generate(features, language="de", task="transcribe", max_new_tokens=12, num_beams=1)
        own.append([f"w{token}" for token in out[0, -12:].tolist() if token != 39])
    wrong = [*own[1][:2], "w2", *own[1][3:], "w3"]  # one substitution, one deletion
    for number, words in enumerate((own[0], wrong)):
        asked = {"audio": f"{number}.wav", "language": "german", "answer": f" {' '.join(words)}", "kind": str(number)}
        lines.append(json.dumps(asked))
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    options = ["--data", str(tmp_path / "q.jsonl"), "--model", str(checkpoint), "--max-new-tokens", "12"]
    assert main(["eval", str(bundle), *options, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    ours, theirs = row["network"], row["pytorch"]
    assert (ours["exact"], ours["word_error_rate"]) == (0.5, 2 / (len(own[0]) + len(wrong)))
    assert [group["word_error_rate"] for group in ours["groups"]["kind"].values()] == [0, 2 / len(wrong)]
    assert {name: ours[name] for name in ("exact", "word_error_rate")}.items() <= theirs.items()
    assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-4)
    assert main(["eval", str(bundle), *options[:2]]) == 0  # as long as the sequence allows
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[-2:] == ["perplexity", "word_error_rate"]
    assert table[1].endswith("%")


#: Seconds, and what is asked: one window, and three; in a language, with text before it.
SPOKEN = [(0.7, {}), (2.6, {}), (2.6, {"language": "german", "prompt": "w30 w31"})]


@pytest.mark.parametrize("beams", [1, 2])
def test_timestamps_and_long_speech(checkpoint, bundle, beams):
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(checkpoint)
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
    generator, windows = np.random.default_rng(0), set()
    with LLM.load(bundle, "reference") as llm:
        config = llm.config(max_new_tokens=20, no_repeat_ngram_size=2, num_beams=beams)
        for seconds, asked in SPOKEN:
            samples = (0.3 * generator.standard_normal(int(16_000 * seconds))).astype(np.float32)
            found = llm.transcribe(Speech(Audio(samples, 16_000), **asked), config, timestamps=True)
            features = extractor(
                samples, sampling_rate=16_000, return_tensors="pt", truncation=False,
                padding="longest" if seconds > 1 else "max_length",
            ).input_features  # fmt: skip
            given = {"language": asked.get("language")}
            if "prompt" in asked:
                given["prompt_ids"] = torch.tensor([46, 30, 31])
            out = model.generate(
                features, return_timestamps=True, return_segments=True, max_new_tokens=20, no_repeat_ngram_size=2,
                num_beams=beams, do_sample=False, **given,
            )  # fmt: skip
            wanted = out["segments"][0]
            assert [segment.token_ids for segment in found.segments] == [each["tokens"].tolist() for each in wanted]
            for segment, each in zip(found.segments, wanted, strict=True):
                assert (segment.start, segment.end) == pytest.approx((float(each["start"]), float(each["end"])))
                assert not {f"w{i}" for i in range(48, 99)} & set(segment.text.split())
            windows.add(len({segment.seek for segment in found.segments}))
    assert max(windows) > 2


def test_transcripts_on_the_command_line(bundle, tmp_path, capsys):
    file = tmp_path / "long.wav"
    file.write_bytes(wav(2, np.tile(sound(0.05), (2, 1))))
    assert main(["run", str(bundle), "--audio", str(file), "--timestamps", "--max-new-tokens", "12", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["duration"] == 1.5
    assert main(["run", str(bundle), "--audio", str(file), "--timestamps", "--max-new-tokens", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    segments = [f"{each['start']:.2f} to {each['end']:.2f} s: {each['text'].strip()}" for each in found["segments"]]
    assert [line.strip() for line in lines] == [segment.strip() for segment in segments]
