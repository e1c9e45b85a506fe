from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.runtime.llms import make_llm
from tt_edge.errors import BundleError, EngineError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.text.conversation import Conversation
from tt_edge.runtime.text.tokenizer import BundleTokenizer

PROMPTS = ["The light ahead", "Die Ampel ist grün", "A pedestrian waits on the left, so the car"]


@pytest.fixture(scope="module")
def llm(folder):
    return make_llm(folder)


def test_streamed_pieces_join_to_the_text(llm):
    pieces = ["" for _ in PROMPTS]

    def on_text(row: int, text: str) -> None:
        pieces[row] += text

    results = llm.generate(PROMPTS, GenerationConfig(24), on_text)
    assert pieces == [r.text for r in results]
    assert [r.prompt for r in results] == PROMPTS
    assert [r.input_ids for r in results] == [llm.tokenizer.encode(p) for p in PROMPTS]
    assert [r.text for r in results] == [llm.tokenizer.decode(r.new_token_ids) for r in results]
    assert llm.generate(PROMPTS, GenerationConfig(24))[0].new_token_ids == results[0].new_token_ids
    json.dumps([r.to_dict() for r in results])


def test_eos_is_the_bundles_unless_given(llm, folder):
    (free,) = llm.generate(PROMPTS[:1], GenerationConfig(12, ignore_eos=True))
    stop = free.new_token_ids[3]
    (given,) = llm.generate(PROMPTS[:1], GenerationConfig(12, (stop,)))
    assert given.new_token_ids == free.new_token_ids[: free.new_token_ids.index(stop) + 1]
    other = make_llm(folder)
    other.tokenizer = BundleTokenizer(llm.tokenizer.backend, {}, (stop,))
    assert other.generate(PROMPTS[:1], GenerationConfig(12))[0].new_token_ids == given.new_token_ids
    assert given.finish_reason == "eos"


def test_chat_template(llm, folder):
    prompt = llm.apply_chat_template([{"role": "user", "content": "Go?"}])
    assert prompt == "<|user|>Go?<|end|><|assistant|>"
    (result,) = llm.generate([prompt], GenerationConfig(2), add_special_tokens=False)
    assert result.input_ids == llm.tokenizer.encode(prompt, add_special_tokens=False)
    other = make_llm(folder)
    other.chat_template = None
    with pytest.raises(BundleError, match="no chat template"):
        other.apply_chat_template([])


def test_each_row_has_its_own_parameters(llm):
    configs = [
        GenerationConfig(4, ignore_eos=True),
        GenerationConfig(9, ignore_eos=True, temperature=1.0, seed=5, logprobs=2),
        GenerationConfig(6, ignore_eos=True, temperature=0.8, top_p=0.9, seed=6),
    ]
    together = llm.generate(PROMPTS, configs)
    assert [len(r.new_token_ids) for r in together] == [4, 9, 6]
    for prompt, config, result in zip(PROMPTS, configs, together, strict=True):
        assert llm.generate([prompt], config)[0].new_token_ids == result.new_token_ids
    tokens = together[1].to_dict()["tokens"]
    assert len(tokens) == 9
    assert all(len(t["top"]) == 2 and t["logprob"] <= t["top"][0][1] <= 0 for t in tokens)
    with pytest.raises(InvalidInputError, match="2 generation configs do not fit 3 prompts"):
        llm.generate(PROMPTS, configs[:2])


def test_a_stop_string_ends_the_text_before_it(llm):
    (free,) = llm.generate(PROMPTS[:1], GenerationConfig(24, ignore_eos=True))
    stop = free.text[9:12]
    pieces: list[str] = []
    config = GenerationConfig(24, ignore_eos=True, stop=("never there", stop))
    (result,) = llm.generate(PROMPTS[:1], config, lambda _row, text: pieces.append(text))
    assert result.text == "".join(pieces) == free.text[: free.text.index(stop)]
    assert (result.finish_reason, result.stopped_by) == ("stop", stop)
    assert len(result.new_token_ids) < 24


def test_stream_can_be_left(llm):
    (whole,) = llm.generate(PROMPTS[:1], GenerationConfig(24))
    assert "".join(llm.stream(PROMPTS[0], GenerationConfig(24))) == whole.text
    stream = llm.stream(PROMPTS[0], GenerationConfig(24))
    next(stream)
    stream.close()
    assert llm.generate(PROMPTS, GenerationConfig(24))[0].text == whole.text
    assert llm.scheduler.running == 0


def test_a_chat_goes_on_from_what_the_cache_holds(llm):
    messages = [{"role": "user", "content": "Is it red?"}]
    first = llm.chat(messages, GenerationConfig(5, ignore_eos=True))
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Go on"}]
    second = llm.chat(messages, GenerationConfig(5))
    assert second.cached_tokens >= len(first.input_ids)
    assert (
        second.new_token_ids
        == llm.generate([second.prompt], GenerationConfig(5), add_special_tokens=False)[0].new_token_ids
    )


def test_a_system_prompt_is_computed_once(folder, tmp_path):
    system = [{"role": "system", "content": "You answer in short, about traffic lights and nothing else at all."}]
    asked = [*system, {"role": "user", "content": "Go?"}]
    plain = make_llm(folder).chat(asked, GenerationConfig(6))
    assert plain.cached_tokens == 0

    llm = make_llm(folder, model_fingerprint=b"x" * 32)
    length = llm.precompute(system)
    assert 16 < length < len(plain.input_ids)
    llm.generate(PROMPTS, GenerationConfig(2))  # other prompts take the rows
    kept = llm.chat(asked, GenerationConfig(6))
    assert (kept.cached_tokens, kept.new_token_ids) == (length, plain.new_token_ids)

    llm.save_prefixes(tmp_path / "prefixes")
    assert [p.name for p in tmp_path.iterdir()] == ["prefixes"]
    later = make_llm(folder, model_fingerprint=b"x" * 32)
    assert later.load_prefixes(tmp_path / "prefixes") == 1
    restored = later.chat(asked, GenerationConfig(6))
    assert (restored.cached_tokens, restored.new_token_ids) == (length, plain.new_token_ids)
    with pytest.raises(BundleError, match="prefixes of another model or bundle; delete it"):
        make_llm(folder, model_fingerprint=b"y" * 32).load_prefixes(tmp_path / "prefixes")


def test_without_settings_those_of_the_checkpoint_hold_everywhere(folder):
    """One rule for ``generate``, ``chat``, ``stream``, conversations and ``AsyncLLM``: no config is the checkpoint's."""
    recommended = GenerationConfig(6, temperature=1.5, top_k=40, seed=11, suppress_tokens=(9, 10))
    chat = [{"role": "user", "content": "Go?"}]

    def fresh():
        return make_llm(folder, generation_defaults=recommended)

    async def asked(llm):
        with AsyncLLM(llm) as model:
            return await model.chat(chat), await model.generate("The light")

    expected = fresh().chat(chat, recommended)
    assert expected.new_token_ids != fresh().chat(chat, GenerationConfig(6)).new_token_ids
    answer, text = asyncio.run(asked(fresh()))
    assert fresh().chat(chat).text == answer.text == Conversation(fresh()).say("Go?").text == expected.text
    assert text.text == fresh().generate(["The light"])[0].text == "".join(fresh().stream("The light"))
    greedy = fresh().config(temperature=0, suppress_tokens=())
    assert (greedy.samples, greedy.top_k, greedy.max_new_tokens) == (False, 40, 6)
    assert fresh().chat(chat, greedy).new_token_ids == fresh().chat(chat, GenerationConfig(6)).new_token_ids


def test_a_stop_string_that_is_a_special_token(llm):
    end, (eos,) = llm.tokenizer.special_tokens["eos_token"], llm.tokenizer.eos_token_ids
    (free,) = llm.generate(PROMPTS[:1], GenerationConfig(24, ignore_eos=True))
    forced = (((free.new_token_ids[3], eos), 1e9),)  # this random model would not choose it
    config = GenerationConfig(24, ignore_eos=True, sequence_bias=forced)
    (free,) = llm.generate(PROMPTS[:1], config)
    at = free.new_token_ids.index(eos)
    (stopped,) = llm.generate(PROMPTS[:1], dataclasses.replace(config, stop=(end,)))
    assert (stopped.finish_reason, stopped.stopped_by) == ("stop", end)
    assert stopped.new_token_ids == free.new_token_ids[: at + 1]
    assert stopped.text == llm.tokenizer.decode(free.new_token_ids[:at])


def test_four_threads_get_what_each_gets_alone(llm):
    """One ``LLM`` used from several threads: every answer is right, and its text comes in its own thread."""
    prompts = [f"{prompt} {number}" for number in range(4) for prompt in PROMPTS]
    alone = [llm.generate([prompt], GenerationConfig(8, ignore_eos=True))[0].text for prompt in prompts]
    threads: set[int] = set()

    def ask(prompt: str) -> tuple[str, bool]:
        here, pieces = threading.get_ident(), []

        def on_text(_index: int, text: str) -> None:
            pieces.append((threading.get_ident(), text))

        threads.add(here)
        completion = llm.generate([prompt], GenerationConfig(8, ignore_eos=True), on_text)[0]
        assert "".join(text for _, text in pieces) == completion.text
        return completion.text, {ident for ident, _ in pieces} == {here}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, prompts * 3))
    assert [text for text, _ in found] == alone * 3
    assert all(own for _, own in found)
    assert len(threads) > 1


def test_prompt_logprobs_are_those_of_the_whole_prompt_at_once(llm):
    """Token by token, beside the network's own logits after every prefix."""
    config = GenerationConfig(1, ignore_eos=True, prompt_logprobs=1, logprobs=1)
    (scored,) = llm.generate(PROMPTS[:1], config)
    assert [t.id for t in scored.prompt_tokens] == scored.input_ids[1:]
    for count, token in enumerate(scored.prompt_tokens, 1):
        bias = {token.id: 100.0}
        kept: list[Token] = []
        forced = GenerationConfig(1, logprobs=1, logit_bias=bias)
        generate(llm.session, [scored.input_ids[:count]], forced, lambda _index, chosen, kept=kept: kept.append(chosen))
        assert kept[0].logprob == pytest.approx(token.logprob, abs=1e-4)
        assert kept[0].top[0][0] == token.top[0][0]
    llm.scheduler.forget()
    data = scored.to_dict()
    assert len(data["prompt_tokens"]) == len(scored.input_ids) - 1
    json.dumps(data)


def test_a_closed_model_says_so(folder):
    closed = make_llm(folder)
    stream = closed.stream(PROMPTS[0], GenerationConfig(30, ignore_eos=True))
    next(stream)
    closed.close()
    closed.close()
    with pytest.raises(EngineError, match="the model is closed; load it again"):
        list(stream)
    with pytest.raises(EngineError, match="the model is closed; load it again"):
        closed.generate(PROMPTS)
