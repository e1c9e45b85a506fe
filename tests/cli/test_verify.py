"""`tt-edge verify`: only integrity, or the numbers too."""

from __future__ import annotations

import json

import pytest

from tests.bundle.making import edit_manifest, flip_byte
from tt_edge.bundle import Bundle

pytestmark = pytest.mark.xdist_group("cli")


def test_integrity(tt_edge, bundle):
    result = tt_edge("verify", bundle)
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        f"{bundle}: 7 files, 1.5 MB, every SHA-256 as listed\n"
        f"only the files were checked: the bundle has no golden set; `tt-edge verify {bundle} --model CHECKPOINT` on the host "
        "stores one\n"
    )


def test_unlisted_files_are_named(tt_edge, bundle):
    (bundle / "note.txt").write_text("mine")
    assert "not in the manifest, and never read: note.txt" in tt_edge("verify", bundle).out
    assert json.loads(tt_edge("verify", bundle, "--json").out) == {"files": 7, "unlisted": ["note.txt"]}


def test_numbers(tt_edge, bundle, checkpoint):
    result = tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 8)
    assert (result.status, result.err) == (0, "")
    assert "Hugging Face generate() and the compiled network match" in result.out
    evidence = Bundle.open(bundle).manifest.evidence
    claims = ("network", "tokenizer", "generation settings")
    assert [(e.claim, e.word) for e in evidence] == [(claim, "evaluated") for claim in claims]
    assert tt_edge("verify", bundle).status == 0, "the record leaves the bundle whole"


def test_numbers_as_json(tt_edge, bundle, checkpoint):
    result = tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 4, "--json")
    parity = json.loads(result.out)["parity"]
    assert (parity["passed"], parity["precision"]) == (True, "fp32")
    assert all((row["tokens"], row["ties"], row["mismatches"]) == (4, 0, 0) for row in parity["rows"])


def test_another_training_of_the_same_model_does_not_match(tt_edge, bundle, tmp_path):
    from examples.tiny_checkpoint import make_checkpoint

    make_checkpoint(tmp_path / "other", steps=0, seed=1)
    result = tt_edge("verify", bundle, "--model", tmp_path / "other", "--new-tokens", 4)
    assert (result.status, result.err) == (1, "")
    assert "DO NOT match" in result.out
    network = Bundle.open(bundle).manifest.evidence[0]
    assert network.word == "failed"
    assert "does NOT match" in network.detail


def test_another_model_is_refused(tt_edge, bundle, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2)).save_pretrained(tmp_path / "llama")
    Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(tmp_path / "qwen2")
    tt_edge("verify", bundle, "--model", tmp_path / "llama").fails_with(
        "the bundle is a Qwen2ForCausalLM, the checkpoint a LlamaForCausalLM; give the checkpoint that", 1
    )
    tt_edge("verify", bundle, "--model", tmp_path / "qwen2").fails_with("parameters, the checkpoint's ", 1)
    tt_edge("verify", bundle, "--model", tmp_path / "none").fails_with("does not exist", 2)


def test_images(tt_edge, bundle, checkpoint):
    tt_edge("verify", bundle, "--image", "a.png").fails_with("--image is to compare with a checkpoint; add --model", 2)
    tt_edge("verify", bundle, "--model", checkpoint, "--image", "a.png").fails_with(
        "is of a language model, which takes no images; omit --image", 2
    )


def test_new_tokens(tt_edge, bundle, checkpoint):
    tt_edge("verify", bundle, "--new-tokens", 0).fails_with("--new-tokens is 0; give at least 1", 2)
    tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 64).fails_with(
        "64 new tokens leave no room for a prompt in max_seq_len 64; lower --new-tokens", 2
    )


@pytest.mark.parametrize(
    "name", ["decoder/weights.safetensors", "decoder/network.json", "tokenizer.json", "generation_config.json"]
)
def test_an_edited_file(tt_edge, bundle, name):
    flip_byte(bundle / name)
    tt_edge("verify", bundle).fails_with(f"{bundle / name} was edited: its SHA-256 is", 1)


def test_an_edited_weight_is_found_before_the_numbers_are(tt_edge, bundle, checkpoint):
    flip_byte(bundle / "decoder/weights.safetensors")
    tt_edge("verify", bundle, "--model", checkpoint).fails_with("weights.safetensors was edited", 1)


def test_a_read_only_bundle_is_verified_all_the_same(tt_edge, bundle, checkpoint, monkeypatch):
    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tt_edge.bundle.update.record_evidence", read_only)
    monkeypatch.setattr("tt_edge.bundle.update.put_file", read_only)
    result = tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 4)
    assert result.status == 0
    assert "not recorded in the bundle's manifest: Permission denied" in result.out


def test_a_manifest_without_a_network(tt_edge, bundle, checkpoint):
    edit_manifest(bundle, lambda data: data["files"].pop("decoder/network.json"))
    tt_edge("verify", bundle, "--model", checkpoint).fails_with("has no decoder/network.json: it ships engines only", 1)


def test_a_golden_set_is_stored_and_answered(tt_edge, bundle, checkpoint):
    result = tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 8)
    assert "a golden set of 2 prompts and 0 images (0.0 MB) is in the bundle" in result.out
    (name,) = (name for name in Bundle.open(bundle).manifest.files if name.startswith("golden-"))
    assert (bundle / name).stat().st_size < 16 << 20
    result = tt_edge("verify", bundle)
    assert (result.status, result.err) == (0, "")
    assert "the golden set was not answered: no engine fits this machine" in result.out
    result = tt_edge("verify", bundle, "--runtime", "reference")
    assert (result.status, result.err) == (0, "")
    assert "the golden set of Hugging Face and this bundle match" in result.out
    assert "recorded in the bundle's manifest" in result.out
    words = {e.claim: e.word for e in Bundle.open(bundle).manifest.evidence}
    claims = ["network", "tokenizer", "generation settings", "golden set, reference"]
    assert words == dict.fromkeys(claims, "evaluated")
    assert "golden set" not in tt_edge("verify", bundle, "--runtime", "none").out


def test_a_golden_set_as_json(tt_edge, bundle, checkpoint):
    tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 2)
    golden = json.loads(tt_edge("verify", bundle, "--runtime", "reference", "--json").out)["golden"]
    assert (golden["passed"], len(golden["rows"])) == (True, 3)


def test_another_network_does_not_answer_the_golden_set(tt_edge, bundle, checkpoint):
    """A weight that was changed together with its hash, as by a compile of another checkpoint."""
    from tests.bundle.making import sha256_of

    tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 4)
    (weights,) = bundle.rglob("weights.safetensors")
    content = bytearray(weights.read_bytes())
    half = len(content) // 2
    content[half:] = bytes(len(content) - half)
    weights.write_bytes(content)
    name = weights.relative_to(bundle).as_posix()
    edit_manifest(bundle, lambda data: data["files"][name].update(sha256=sha256_of(weights)))
    result = tt_edge("verify", bundle, "--runtime", "reference")
    assert (result.status, result.err) == (1, "")
    assert "DO NOT match" in result.out
    assert {e.claim: e.word for e in Bundle.open(bundle).manifest.evidence}["golden set, reference"] == "failed"


def test_a_checkpoint_that_does_not_match_leaves_no_golden_set(tt_edge, bundle, tmp_path):
    from examples.tiny_checkpoint import make_checkpoint

    make_checkpoint(tmp_path / "other", steps=0, seed=1)
    assert tt_edge("verify", bundle, "--model", tmp_path / "other", "--new-tokens", 4).status == 1
    assert not [name for name in Bundle.open(bundle).manifest.files if name.startswith("golden-")]


def test_options_that_say_nothing_together(tt_edge, bundle, checkpoint):
    hint = "--bisect looks into the engines of this machine; omit "
    tt_edge("verify", bundle, "--bisect", "--model", checkpoint).fails_with(hint + "--model", 2)
    tt_edge("verify", bundle, "--bisect", "--runtime", "none").fails_with(hint + "--runtime none", 2)
    tt_edge("verify", bundle, "--runtime", "reference").fails_with(f"{bundle} has no golden set; ", 2)
    tt_edge("verify", bundle, "--bisect").fails_with(f"{bundle} has no golden set; ", 2)


def test_bisect_prints_what_was_found(tt_edge, bundle, checkpoint, monkeypatch):
    """The engine, and the debugging engines, are the reference evaluator with one wrong layer."""
    from tests.proof.engines import FaultyEngine, broken
    from tt_edge.bundle.manifest import DECODER
    from tt_edge.proof import on_device
    from tt_edge.runtime.engine.reference_session import ReferenceSession

    tt_edge("verify", bundle, "--model", checkpoint, "--new-tokens", 4)
    opened = Bundle.open(bundle)
    wrong = [layer.name for layer in opened.network(DECODER).layers if layer.kind == "ATTENTION"][-1]

    def open_decoder(bundle, runtime, machine=None):
        session = ReferenceSession(bundle.network(DECODER), bundle.manifest.contract)
        (step,) = (step for step in session._evaluator._steps if step.layer.name == wrong)
        compute = step.compute
        step.compute = lambda *inputs: broken(compute(*inputs))
        return session

    def debugging_engines(bundle):
        return lambda case: FaultyEngine(case.network, case.feeds, wrong), ()

    monkeypatch.setattr(on_device, "open_decoder", open_decoder)
    monkeypatch.setattr(on_device, "debugging_engines", debugging_engines)
    result = tt_edge("verify", bundle, "--bisect")
    assert result.status == 1
    assert "DO NOT match" in result.out
    assert f"the first layer that is wrong:\n  {wrong} (ATTENTION)" in result.out
    assert "tt-edge: debugging engine with 0 tensors marked: still wrong" in result.err
    found = json.loads(tt_edge("verify", bundle, "--bisect", "--json").out)["bisect"]
    assert (found["fault"], found["layers"][0]["name"]) == ("layer", wrong)
