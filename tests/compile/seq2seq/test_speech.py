"""Speech to text: both networks answer as Whisper's ``generate()`` does, from a sound file on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.compile.seq2seq.seq2seqs import answers, compiled, wanted
from tests.runtime.audio.test_load import wav
from tests.tiny_seq2seq import save_seq2seq, tiny_seq2seq
from tt_edge.cli import main

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
    model = tiny_seq2seq("whisper")
    settings = model.generation_config
    settings.lang_to_id, settings.task_to_id = (
        {"<|en|>": 80, "<|de|>": 81, "<|fr|>": 82},
        {"transcribe": 84, "translate": 85},
    )
    settings.no_timestamps_token_id, settings.is_multilingual, settings.return_timestamps = 86, True, False
    settings._from_model_config = False
    settings.suppress_tokens, settings.begin_suppress_tokens = [11, 12], [13, 14]
    save_seq2seq(model, folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    return folder


def sound(frequency: float) -> np.ndarray:
    return 0.5 * np.sin(np.arange(12_000) * frequency)[:, None]


def test_a_sound_file_to_text(checkpoint, tmp_path, capsys):
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    bundle = tmp_path / "whisper.ttedge"
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "40"]
    assert main(["compile", str(checkpoint), "-o", str(bundle), *options]) == 0
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
        (["--language", "de", "--task", "translate"], {"language": "de", "task": "translate"}),
    ):
        arguments = [part for file in files for part in ("--audio", str(file))]
        assert main(["run", str(bundle), *arguments, *asked, "--max-new-tokens", "12", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        for frequency, answer in zip((0.05, 0.31), found, strict=True):
            samples = (np.round(sound(frequency) * 2**15) / 2**15).astype(np.float32)[:, 0]
            features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
            out = model.generate(features, max_new_tokens=12, do_sample=False, num_beams=1, **given)
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
