"""The official client works, and gets what the Python API gives."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest

from tests.runtime.llms import make_llm
from tests.server.conftest import MODEL, serving
from tt_edge.generation_config import GenerationConfig

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Go?"}]
PROMPTS = ["The light ahead", "Die Ampel ist grün"]


@pytest.fixture(scope="module")
def llm(folder):
    return make_llm(folder)


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == (MODEL, "tt-edge")
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="model 'gpt' is not here; this server has 'tiny'"):
        client.models.retrieve("gpt")


def test_chat(client, llm):
    want = llm.chat(MESSAGES, GenerationConfig(12))
    got = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=12)
    assert got.choices[0].message.content == want.text
    assert got.choices[0].finish_reason == ("length" if want.finish_reason == "length" else "stop")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(want.input_ids), len(want.new_token_ids))
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


def test_chat_stream(client, llm):
    want = llm.chat(MESSAGES, GenerationConfig(12))
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == want.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 12
    assert len({c.id for c in chunks}) == 1


def test_the_async_client_and_many_at_once(served, llm):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            asked = [client.completions.create(model=MODEL, prompt=p, max_tokens=9) for p in PROMPTS * 3]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    want = [completion.text for completion in llm.generate(PROMPTS, GenerationConfig(9))]
    assert asyncio.run(main()) == want * 3


def test_a_prefix_that_was_seen_is_reused(client):
    messages = [{"role": "system", "content": "One two three four five six."}, {"role": "user", "content": "Go?"}]
    for _ in range(2):
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1


def test_completions_of_text_and_ids(client, llm):
    want = llm.generate(PROMPTS, GenerationConfig(7))
    texts = client.completions.create(model=MODEL, prompt=PROMPTS, max_tokens=7)
    ids = client.completions.create(model=MODEL, prompt=[list(w.input_ids) for w in want], max_tokens=7)
    one = client.completions.create(model=MODEL, prompt=want[0].input_ids, max_tokens=7, echo=True)
    assert [c.text for c in texts.choices] == [c.text for c in ids.choices] == [w.text for w in want]
    assert one.choices[0].text == PROMPTS[0] + want[0].text
    assert [c.index for c in texts.choices] == [0, 1]
    assert texts.usage.prompt_tokens == sum(len(w.input_ids) for w in want)


def test_several_answers_with_a_seed(client):
    def ask(seed):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=8,
            n=3,
            temperature=1.0,
            seed=seed,
            extra_body={"ignore_eos": True},
        )
        assert answer.usage.completion_tokens == 24
        return [choice.message.content for choice in answer.choices]

    first = ask(-5)
    assert ask(-5) == first
    assert len({*first, *ask(6)}) > 3


def test_several_answers_streamed(client):
    whole = client.completions.create(model=MODEL, prompt=PROMPTS, max_tokens=6)
    pieces = ["", ""]
    for chunk in client.completions.create(model=MODEL, prompt=PROMPTS, max_tokens=6, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == [choice.text for choice in whole.choices]


def test_logprobs(client):
    chat = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3)
    content = chat.choices[0].logprobs.content
    assert len(content) == 4
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0  # greedy
        assert bytes(entry.bytes).decode(errors="replace") == entry.token  # it may be half of a character
    text = client.completions.create(model=MODEL, prompt=PROMPTS[0], max_tokens=4, logprobs=2).choices[0].logprobs
    assert len(text.tokens) == len(text.token_logprobs) == len(text.top_logprobs) == len(text.text_offset) == 4
    assert all(0 < math.exp(p) <= 1 for p in text.token_logprobs)
    streamed = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3, stream=True
    )
    pieces = [e for c in streamed if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [p.token for p in pieces] == [c.token for c in content]


def test_stop_and_bias(client, llm):
    free = client.completions.create(model=MODEL, prompt=PROMPTS[0], max_tokens=20, extra_body={"ignore_eos": True})
    stop = free.choices[0].text[8:10]
    cut = client.completions.create(model=MODEL, prompt=PROMPTS[0], max_tokens=20, stop=stop)
    assert cut.choices[0].text == free.choices[0].text[: free.choices[0].text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    dot = llm.tokenizer.encode(".")[0]
    biased = client.completions.create(model=MODEL, prompt=PROMPTS[0], max_tokens=5, logit_bias={str(dot): 100})
    assert biased.choices[0].text == "....."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"temperature": 1e9}, "temperature is 1000000000.0; it must be a number from 0 to 100"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"top_p": 0}, "top_p is 0.0; it must be above 0"),
        ({"n": 17}, "n: Input should be less than or equal to 16"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 500}, "This model's maximum context length is 80 tokens. However, you requested 5"),
        (
            {"messages": [{"role": "user", "content": "light " * 99}]},
            "maximum context length is 80 tokens. However, you requested",
        ),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"a": 1}}, "logit_bias has key 'a'"),
        ({"tools": [{"type": "function"}]}, "tools.0.function: Field required"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"stop": [""]}, "stop string ''"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(client, body, message, stream):
    values = {"model": MODEL, "messages": MESSAGES, **body}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**values, stream=stream)
    assert message in caught.value.body["message"]
    assert "\n" not in caught.value.body["message"]


def test_api_key(folder):
    with serving(folder, api_keys=("secret",)) as served:
        with (
            served.client("wrong") as client,
            pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"),
        ):
            client.models.list()
        with served.client("secret") as client:
            assert client.models.list().data[0].id == MODEL
