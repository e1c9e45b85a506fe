"""An encoder-decoder on the command line: compile, verify, run, inspect."""

from __future__ import annotations

import json

import pytest
import torch

from tests.models.tiny_seq2seq import save_seq2seq, tiny_seq2seq
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.scoring import Target, score
from tt_edge.runtime import LLM


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_seq2seq(tiny_seq2seq("bart"), tmp_path_factory.mktemp("bart") / "checkpoint")


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "bart.ttedge"
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "40", "--max-source-len", "32"]
    assert main(["compile", str(checkpoint), "-o", str(out), *options]) == 0
    return out


def test_without_a_golden_set(bundle, capsys):
    assert main(["verify", str(bundle)]) == 0
    assert "the bundle has no golden set; `tt-edge verify" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--runtime", "reference"]) == 2
    assert "on the host stores one" in capsys.readouterr().err


def test_verify(bundle, checkpoint, capsys):
    assert main(["verify", str(bundle), "--model", str(checkpoint), "--new-tokens", "12"]) == 0
    shown = capsys.readouterr().out
    assert "encoder        keys and values of a source, 32 tokens" in shown
    assert "Hugging Face generate() and the compiled network match" in shown
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["parts"].keys() == {"encoder", "decoder"}
    claims = {e["claim"]: e["word"] for e in manifest["evidence"]}
    assert (claims["network"], claims["encoder network"]) == ("evaluated", "evaluated")
    assert "a golden set of 2 prompts and 2 sources" in shown


def test_the_golden_set_is_answered_without_pytorch(bundle, capsys):
    """Stored by the test before; as on a device."""
    assert main(["verify", str(bundle), "--runtime", "reference", "--json"]) == 0
    golden = json.loads(capsys.readouterr().out)["golden"]
    assert (golden["passed"], len(golden["rows"])) == (True, 3)
    assert [(each["of"], each["image"]) for each in golden["features"]] == [("source", 0), ("source", 1)]
    assert golden["relative_error"] < 1e-5
    assert max(each["relative_error"] for each in golden["features"]) < 1e-5


def test_quantized(checkpoint, questions, tmp_path, capsys):
    """Calibrated on texts and answers; compared with PyTorch's model, quantized in the same way, also by its answers."""
    out = tmp_path / "bart.ttedge"
    limits = ["--max-batch", "2", "--max-seq-len", "40", "--max-source-len", "32", "--precision", "fp32"]
    options = ["--quant", "int8_sq", "--quant-layers", "*.fc2=int8_wo", "--calib-data", str(questions)]
    assert main(["compile", str(checkpoint), "-o", str(out), *limits, *options]) == 0
    assert "int8_sq: 28 linear layers" in capsys.readouterr().out
    assert main(["verify", str(out), "--model", str(checkpoint), "--new-tokens", "12"]) == 0
    claims = {e["claim"]: e["word"] for e in json.loads((out / "manifest.json").read_text())["evidence"]}
    assert (claims["network"], claims["encoder network"]) == ("evaluated", "evaluated")
    kinds = [layer.kind for part in ("encoder", "decoder") for layer in Bundle.open(out).network(part).layers]
    assert kinds.count("DEQUANTIZE") >= 32
    assert kinds.count("QUANTIZE") >= 16
    asked = ["--data", str(questions), "--model", str(checkpoint), "--max-new-tokens", "8", "--json"]
    capsys.readouterr()
    assert main(["eval", str(out), *asked]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["network"]["exact"] == row["pytorch"]["exact"]
    assert row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=1e-3)


def test_doctor_counts_the_sources(bundle, capsys):
    main(["doctor", str(bundle), "--json"])
    found = {f["topic"]: f["text"] for f in json.loads(capsys.readouterr().out)["findings"]}
    # 4 tensors of 2 slots, 4 heads, 32 places and 8 numbers of 4 bytes.
    assert ", keys and values of sources 0 MiB" in found["memory needed"]


def test_commands_for_language_models(bundle, tmp_path, capsys):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"prompt": "w4", "answer": "w5"}')
    for command in (
        ["eval", str(bundle), "--task", "perplexity", "--data", str(questions)],
        ["bench", str(bundle), "--rate", "2"],
        ["bench", str(bundle), "--against", "hf"],
    ):
        assert main(command) == 2
        assert "encoder-decoder" in capsys.readouterr().err
    with LLM.load(bundle, "reference") as llm:
        with pytest.raises(InvalidInputError, match="texts are scored only by language models"):
            next(score(llm.session, [Target([2], [5])]))
        with pytest.raises(InvalidInputError, match="whose tokens have no log-probabilities; omit prompt_logprobs"):
            llm.generate("w4", llm.config(max_new_tokens=4, prompt_logprobs=0))


def test_bench(bundle, capsys):
    options = ["--isl", "20", "--osl", "6", "--batch", "2", "--runs", "2", "--json"]
    assert main(["bench", str(bundle), *options]) == 0
    (measured,) = json.loads(capsys.readouterr().out)["measured"]
    assert (measured["requests"], measured["input_tokens"], measured["output_tokens"]) == (4, 80, 24)
    assert measured["ms"]["vision"]["mean"] > 0
    for options, message in (
        (
            ["--isl", "33"],
            "--isl make 33, more than the 32 of the compiled model; lower it, or compile with a larger --max-s",
        ),
        (["--osl", "40"], "--osl and 1 tokens before make 41, more than the 40"),
        (["--batch", "3"], "--batch make 3, more than the 2"),
    ):
        assert main(["bench", str(bundle), *options])
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Two texts with the model's own answers, and one with another."""
    model, lines = tiny_seq2seq("bart"), []
    for ids, answer in (([4, 5, 90, 33], None), ([7], None), ([8, 9], "w4 w5")):
        out = model.generate(torch.tensor([[*ids, 2]]), max_new_tokens=8, do_sample=False, num_beams=1)
        own = " ".join(f"w{i}" for i in out[0, 1:].tolist() if i != 2)
        lines.append(json.dumps({"prompt": " ".join(f"w{i}" for i in ids), "answer": answer or own}))
    file = tmp_path_factory.mktemp("questions") / "q.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_eval_beside_pytorch(bundle, checkpoint, questions, capsys):
    options = ["--data", str(questions), "--model", str(checkpoint), "--max-new-tokens", "8", "--json"]
    assert main(["eval", str(bundle), *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    ours, theirs = row["network"], row["pytorch"]
    assert ours["exact"] == theirs["exact"] == pytest.approx(2 / 3)
    assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-4)
    model, logprobs = tiny_seq2seq("bart"), []
    for line in questions.read_text().splitlines():
        asked = json.loads(line)
        source, answer = ([int(word[1:]) for word in asked[name].split()] for name in ("prompt", "answer"))
        with torch.no_grad():
            logits = model(torch.tensor([[*source, 2]]), decoder_input_ids=torch.tensor([[2, *answer[:-1]]])).logits[0]
        logprobs += logits.log_softmax(-1)[range(len(answer)), answer].tolist()
    assert ours["perplexity"] == pytest.approx(float(torch.tensor(logprobs).neg().mean().exp()), rel=1e-4)


def test_run(bundle, checkpoint, capsys):
    texts = ["w4 w5 w90 w33", "w7"]
    asked = [part for text in texts for part in ("--prompt", text)]
    assert main(["run", str(bundle), *asked, "--max-new-tokens", "8", "--json"]) == 0
    model, found = tiny_seq2seq("bart"), json.loads(capsys.readouterr().out)
    for text, answer in zip(texts, found, strict=True):
        ids = torch.tensor([[int(word[1:]) for word in text.split()] + [2]])
        out = model.generate(ids, max_new_tokens=8, do_sample=False, num_beams=1)
        assert answer["input_ids"] + answer["new_token_ids"] == out[0].tolist()
        assert answer["prompt"] == text


def test_a_source_of_another_request_is_not_reused(bundle):
    """The beginning of every answer is the same, and its cached keys and values are not."""
    with LLM.load(bundle, "reference") as llm:
        config = llm.config(max_new_tokens=8)
        one, other = (llm.generate(text, config)[0] for text in ("w4 w5 w90 w33", "w7 w8"))
        again = llm.generate(["w7 w8", "w4 w5 w90 w33"], config)
    assert [a.new_token_ids for a in again] == [other.new_token_ids, one.new_token_ids]
    assert one.new_token_ids != other.new_token_ids


def test_served(bundle):
    """OpenAI's own client: the prompt of a completion is the source."""
    pytest.importorskip("openai")
    from tests.server.conftest import serving_llm
    from tests.server.parsing.test_limits import post

    with serving_llm(LLM.load(bundle, "reference")) as served:
        client, model = served.client(), tiny_seq2seq("bart")
        for ids in ([4, 5, 90, 33, 2], [7, 2]):
            text = " ".join(f"w{i}" for i in ids[:-1])
            out = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, num_beams=1)
            wanted = " ".join(f"w{i}" for i in out[0, 1:].tolist() if i != 2)
            for prompt in (text, ids):
                made = client.completions.create(model=client.models.list().data[0].id, prompt=prompt, max_tokens=8)
                assert made.choices[0].text == wanted
                assert made.usage.prompt_tokens == len(ids)
        name, url = served.model.llm.name, f"{served.url}/v1/completions"
        for changes, code, message in (
            ({"echo": True}, None, "an encoder-decoder's answer does not continue its prompt; omit echo"),
            (
                {"prompt": "w5 " * 40},
                "context_length_exceeded",
                "the text has 41 tokens, more than the 32 that the encoder was compiled for",
            ),
            ({"prompt": "w" * 32 * 4 + "w"}, "context_length_exceeded", "maximum context length is 32 tokens"),
        ):
            status, answer, _ = post(url, {"model": name, "prompt": "w4", "max_tokens": 4, **changes})
            assert (status, answer["error"]["code"]) == (400, code)
            assert message in answer["error"]["message"]


def test_beams(bundle, capsys):
    options = ["--max-new-tokens", "8", "--num-beams", "2", "--length-penalty", "2"]
    assert main(["run", str(bundle), "--prompt", "w4 w5 w90 w33", *options, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    ids = torch.tensor([[4, 5, 90, 33, 2]])
    out = tiny_seq2seq("bart").generate(ids, max_new_tokens=8, num_beams=2, length_penalty=2.0)
    assert answer["input_ids"] + answer["new_token_ids"] == out[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "w5", "--num-beams", "3", "--max-new-tokens", "4"], "3 beams need as many batch slots"),
        (
            ["--prompt", "w5", "--num-beams", "2", "--temperature", "1"],
            "beam search has no temperature; omit one of them",
        ),
        (
            ["--prompt", " ".join(["w5"] * 40)],
            "the text has 41 tokens, more than the 32 that the encoder was compiled for",
        ),
        (["--prompt", "w5", "--max-new-tokens", "60"], "more than max_seq_len 40"),
        (["--prompt", "w5", "--image", "a.png"], "encoder-decoder that takes text"),
        (["--prompt", "w5", "--chat"], "chat template"),
    ],
)
def test_what_run_refuses(bundle, capsys, arguments, message):
    assert main(["run", str(bundle), *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--backend", "plugin"],
            "AttentionPlugin has no attention to a source; compile with --backend native or sdpa",
        ),
        (
            ["--quant-vision", "fp8"],
            "is an encoder-decoder, of which --quant quantizes both halves; omit --quant-vision",
        ),
        (["--quant", "nvfp4", "--engine", "sm89"], "nvfp4 needs compute capability sm100 or later, not sm89"),
        (["--quant", "int4_awq"], "has 32 input features, which is no multiple of int4_awq's groups of 128"),
        (["--max-source-len", "97"], "exceeds the 96 tokens that BartForConditionalGeneration's encoder was made for"),
        (["--max-source-len", "2"], "max_source_len is 2; give at least 3"),
        (["--max-seq-len", "97"], "exceeds the 96 tokens that BartForConditionalGeneration's decoder was made for"),
        (["--max-image-tokens", "8"], "takes no images; omit --max-image-tokens"),
    ],
)
def test_what_compile_refuses(checkpoint, tmp_path, capsys, arguments, message):
    assert main(["compile", str(checkpoint), "-o", str(tmp_path / "out"), *arguments])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
