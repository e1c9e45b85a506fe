"""`tt-edge run`: the tokens of generate(), as text and as JSON."""

from __future__ import annotations

import json

import pytest

from tests.bundle.making import edit_manifest, flip_byte
from tests.cli.conftest import MAX_INPUT_LEN, MAX_SEQ_LEN
from tt_edge.runtime.engine.choose import Machine

pytestmark = pytest.mark.xdist_group("cli")

PROMPTS = ("The light", "A pedestrian waits on the left, so the car")
NEW = 12


@pytest.fixture(scope="module")
def hugging_face(checkpoint):
    """``hugging_face(text, new_tokens)``: the ids of the prompt, and those that generate() puts after them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)

    def generate(text: str, new_tokens: int = NEW) -> tuple[list[int], list[int], str]:
        ids = tokenizer(text, return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=new_tokens, do_sample=False)[0].tolist()
        new = out[ids.shape[1] :]
        return ids[0].tolist(), new, tokenizer.decode(new, skip_special_tokens=True)

    return generate


def test_two_prompts_of_different_lengths_as_json(tt_edge, bundle, hugging_face):
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    result = tt_edge("run", bundle, *prompts, "--max-new-tokens", NEW, "--json")
    assert (result.status, result.err) == (0, "")
    rows = json.loads(result.out)
    expected = [hugging_face(prompt) for prompt in PROMPTS]
    assert [(r["input_ids"], r["new_token_ids"], r["text"]) for r in rows] == expected
    assert [r["prompt"] for r in rows] == list(PROMPTS)
    assert len(rows[0]["input_ids"]) != len(rows[1]["input_ids"])
    assert rows[0]["new_token_ids"] != rows[1]["new_token_ids"]
    assert {key for r in rows for key in r["timing"]} >= {"prefill_s", "ttft_s", "decode_s", "tpot_s", "tokens_per_s"}


def test_one_prompt_is_streamed_as_text(tt_edge, bundle, hugging_face):
    result = tt_edge("run", bundle, "--prompt", PROMPTS[1], "--max-new-tokens", NEW)
    assert (result.status, result.out) == (0, PROMPTS[1] + hugging_face(PROMPTS[1])[2] + "\n")
    assert result.err.count("\n") == 1
    assert "tokens/s), first after " in result.err
    assert result.err.endswith("evaluated by the reference session\n")


def test_by_default_a_small_bundle_gives_half_of_its_tokens(tt_edge, bundle, hugging_face):
    result = tt_edge("run", bundle, "--prompt", PROMPTS[0], "--json", "--ignore-eos")
    assert result.status == 0, result.err
    [row] = json.loads(result.out)
    assert len(row["new_token_ids"]) == min(64, MAX_SEQ_LEN // 2)


def test_several_prompts_are_numbered(tt_edge, bundle, hugging_face):
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    result = tt_edge("run", bundle, *prompts, "--max-new-tokens", 3)
    lines = [f"[{n}] {prompt}{hugging_face(prompt, 3)[2]}\n" for n, prompt in enumerate(PROMPTS, 1)]
    assert (result.status, result.out) == (0, "".join(lines))


def test_more_prompts_than_rows(tt_edge, bundle, hugging_face):
    prompts = (*PROMPTS, "Die Ampel")
    result = tt_edge("run", bundle, *(w for p in prompts for w in ("--prompt", p)), "--max-new-tokens", 4, "--json")
    assert [r["new_token_ids"] for r in json.loads(result.out)] == [hugging_face(p, 4)[1] for p in prompts]


def test_a_prompt_longer_than_one_call_takes_goes_in_pieces(tt_edge, bundle, hugging_face):
    prompt = "The road is clear, and the car drives on. " * 3
    ids, new, _ = hugging_face(prompt, 4)
    assert MAX_INPUT_LEN < len(ids) < MAX_SEQ_LEN - 4
    result = tt_edge("run", bundle, "--prompt", prompt, "--max-new-tokens", 4, "--json")
    assert json.loads(result.out)[0]["new_token_ids"] == new


def test_the_cache_can_be_filled_to_the_last_place(tt_edge, bundle, hugging_face):
    ids, _, _ = hugging_face(PROMPTS[0], 1)
    room = MAX_SEQ_LEN - len(ids)
    options = ("--prompt", PROMPTS[0], "--ignore-eos", "--json")
    full = tt_edge("run", bundle, *options, "--max-new-tokens", room)
    assert len(json.loads(full.out)[0]["new_token_ids"]) == room
    tt_edge("run", bundle, *options, "--max-new-tokens", room + 1).fails_with(
        f"prompt 0 has {len(ids)} tokens, and {room + 1} new ones make 65, more than max_seq_len 64; "
        "lower max_new_tokens, shorten the prompt, or compile with a larger --max-seq-len",
        1,
    )


def test_chat(tt_edge, bundle, hugging_face):
    result = tt_edge("run", bundle, "--prompt", "Go?", "--system", "Drive.", "--max-new-tokens", 4, "--json")
    ids, new, _ = hugging_face("<|system|>Drive.<|end|><|user|>Go?<|end|><|assistant|>", 4)
    (row,) = json.loads(result.out)
    assert (row["input_ids"], row["new_token_ids"]) == (ids, new)
    text = tt_edge("run", bundle, "--prompt", "Go?", "--system", "Drive.", "--max-new-tokens", 4).out
    assert text == row["text"] + "\n"


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (("--prompt", "The light is green. " * 30), "more than max_seq_len 64; lower max_new_tokens, shorten the", 1),
        (("--prompt", ""), "prompt 0 has no tokens; give some text", 2),
        (("--prompt", "a", "--max-new-tokens", 0), "max_new_tokens is 0; it must be an integer of at least 1", 2),
        (("--prompt", "a", "--max-new-tokens", 64), "more than max_seq_len 64", 1),
        (
            ("--prompt", "a", "--runtime", "cuda"),
            "runtime 'cuda' is unknown; choose one of auto, tensorrt, reference",
            2,
        ),
        (("--prompt", "a", "--device", "cuda"), "--device cuda is of --runtime reference, and --runtime is auto", 2),
        (("--prompt", "a", "--device", "tpu"), "--device 'tpu' is unknown; choose one of cpu, cuda", 2),
    ],
)
def test_bad_requests(tt_edge, bundle, options, message, status):
    tt_edge("run", bundle, *options).fails_with(message, status)


@pytest.mark.parametrize("capability", ["sm120", None])
def test_an_engine_that_does_not_fit(tt_edge, bundle, monkeypatch, capability):
    here = Machine("linux_x86_64", capability, {"tensorrt_rtx": "1.6.1.1"})
    monkeypatch.setattr(Machine, "detect", classmethod(lambda cls: here))
    engine = {"file": "config.json", "flavour": "tensorrt_rtx", "tensorrt_version": "1.6.1.1",
              "platform": "linux_x86_64", "compute_capability": "sm89", "bytes": 1, "build_seconds": 1.0}  # fmt: skip
    edit_manifest(bundle, lambda data: data["engines"].append(engine))
    options = ("--prompt", PROMPTS[0], "--max-new-tokens", 2)
    result = tt_edge("run", bundle, *options, "--runtime", "tensorrt")
    gpu = capability or "no usable NVIDIA GPU"
    result.fails_with(
        f"no decoder engine of the bundle fits this machine (linux_x86_64, {gpu}, tensorrt_rtx 1.6.1.1)", 1
    )
    why = "it is for sm89, this GPU is sm120" if capability else "there is no usable NVIDIA GPU"
    assert f"it has: sm89 (tensorrt_rtx 1.6.1.1): {why}; build one here with `tt-edge build {bundle}`" in result.err
    assert tt_edge("run", bundle, *options).err.endswith("evaluated by the reference session\n")


def test_a_bundle_without_a_tokenizer(tt_edge, bundle):
    edit_manifest(bundle, lambda data: data["files"].pop("tokenizer.json"))
    tt_edge("run", bundle, "--prompt", "a").fails_with(
        "the bundle has no tokenizer.json, so it takes token ids only", 1
    )


def test_a_bundle_without_a_chat_template(tt_edge, bundle):
    edit_manifest(bundle, lambda data: data["files"].pop("chat_template.jinja"))
    tt_edge("run", bundle, "--prompt", "a", "--chat").fails_with("the bundle has no chat template", 1)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_an_edited_tokenizer(tt_edge, bundle, name):
    flip_byte(bundle / name)
    tt_edge("run", bundle, "--prompt", "a").fails_with(f"{name} was edited", 1)


def test_sampling(tt_edge, bundle):
    def ask(*options: object) -> list[dict]:
        result = tt_edge("run", bundle, "--runtime", "reference", "--prompt", "The", "--json", "--ignore-eos",
                         "--max-new-tokens", 12, *options)  # fmt: skip
        assert result.status == 0, result.err
        return json.loads(result.out)

    [greedy], [one], [again], [other] = (
        ask(*options) for options in ((), *(("--temperature", 3, "--top-k", 50, "--seed", s) for s in (1, 1, 2)))
    )
    assert greedy["new_token_ids"] != one["new_token_ids"] == again["new_token_ids"] != other["new_token_ids"]
    [stopped] = ask("--stop", greedy["text"][6:8], "--logprobs", 2)
    assert stopped["text"] == greedy["text"][:6]
    assert (stopped["finish_reason"], stopped["stopped_by"]) == ("stop", greedy["text"][6:8])
    assert len(stopped["tokens"][0]["top"]) == 2
    tt_edge("run", bundle, "--prompt", "The", "--top-p", 2).fails_with(
        "top_p is 2.0; it must be a number from 0 to 1", 2
    )
