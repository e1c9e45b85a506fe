"""Many coroutines on one model."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.llms import make_llm
from tt_edge.errors import CapacityError, EngineError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.async_llm import AsyncLLM, QueueFullError

PROMPTS = ["The light ahead", "Die Ampel ist grün", "A pedestrian waits on the left, so the car"]
CONFIG = GenerationConfig(12, ignore_eos=True)


@pytest.fixture
def model(folder):
    with AsyncLLM(make_llm(folder), max_waiting=3) as model:
        yield model


@pytest.fixture(scope="module")
def alone(folder):
    return [completion.text for completion in make_llm(folder).generate(PROMPTS, CONFIG)]


def test_callers_get_what_each_gets_alone(model, alone):
    async def main():
        return await asyncio.gather(*(model.generate(prompt, CONFIG) for prompt in PROMPTS))

    for _ in range(2):  # from two event loops
        assert [completion.text for completion in asyncio.run(main())] == alone
    assert model.stats.new_tokens == 6 * 12


def test_pieces_come_as_they_are_made(model, alone):
    async def main():
        async with model.stream(PROMPTS[0], CONFIG) as stream:
            pieces = [delta async for delta in stream]
            return pieces, await stream.completion()

    pieces, completion = asyncio.run(main())
    assert "".join(p.text for p in pieces) == completion.text == alone[0]
    assert [t.id for p in pieces for t in p.tokens] == completion.new_token_ids
    assert len(pieces) > 3


def test_token_ids_and_chats(model):
    async def main():
        ids = model.llm.tokenizer.encode(PROMPTS[0])
        by_ids, by_text = await asyncio.gather(model.generate(ids, CONFIG), model.generate(PROMPTS[0], CONFIG))
        assert by_ids.new_token_ids == by_text.new_token_ids
        answer = await model.chat([{"role": "user", "content": "Go?"}], GenerationConfig(3))
        assert answer.prompt == "<|user|>Go?<|end|><|assistant|>"

    asyncio.run(main())


def test_images_beside_token_ids_are_not_passed_over(model):
    async def main():
        with pytest.raises(InvalidInputError, match="the prompt is token ids, and has 1 images; give it as text"):
            await model.generate([5, 6], CONFIG, images=["a.png"])
        with pytest.raises(InvalidInputError, match="a language model, which takes no images, and there are 1"):
            await model.generate(PROMPTS[0], CONFIG, images=["a.png"])
        content = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What is it?"}]
        with pytest.raises(InvalidInputError, match="a language model, which takes no images, and there are 1"):
            await model.chat([{"role": "user", "content": content}], CONFIG)
        assert model.waiting == 0

    asyncio.run(main())


def test_too_many_are_refused_and_the_others_finish(model, alone):
    async def main():
        streams, refused = [], 0
        for _ in range(50):
            try:
                streams.append(model.stream(PROMPTS[0], CONFIG))
            except QueueFullError:
                refused += 1
        done = [await stream.completion() for stream in streams]
        assert len(streams) + refused == 50
        assert 5 <= len(streams) < 50  # two rows, three waiting, and what was done meanwhile
        assert {completion.text for completion in done} == {alone[0]}

    asyncio.run(main())


def test_a_cancelled_coroutine_ends_its_request(model):
    async def main():
        task = asyncio.create_task(model.generate(PROMPTS[0], GenerationConfig(60, ignore_eos=True)))
        while not model.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while model.running:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert model.stats.new_tokens < 60


def test_errors_reach_the_caller(model, monkeypatch):
    async def main():
        with pytest.raises(CapacityError, match="more than max_seq_len 80"):
            await model.generate(PROMPTS[0], GenerationConfig(99))
        with monkeypatch.context() as patch:
            patch.setattr(model.llm.session, "_execute", lambda *_: 1 / 0)
            with pytest.raises(EngineError, match=r"internal error \(ZeroDivisionError"):
                await model.generate(PROMPTS[0], CONFIG)
        await model.generate(PROMPTS[0], CONFIG)

    asyncio.run(main())


def test_closing_ends_what_is_running(folder):
    async def main():
        model = AsyncLLM(make_llm(folder))
        streams = [model.stream(PROMPTS[0], GenerationConfig(60, ignore_eos=True)) for _ in range(4)]
        await asyncio.to_thread(model.close)
        for stream in streams:
            with pytest.raises(EngineError, match="shut down"):
                await stream.completion()
        with pytest.raises(EngineError, match="shut down"):
            model.stream(PROMPTS[0])
        model.close()

    asyncio.run(main())
