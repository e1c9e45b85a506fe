"""Several clients: who may ask, and whose prompts may be computed from the KV cache."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.server.conftest import MODEL, serving
from tt_edge.server.turns import Turns

SYSTEM = {"role": "system", "content": "One two three four five six seven eight nine ten."}
SECRET = [SYSTEM, {"role": "user", "content": "My name is 58 and I wait at the light."}]


def cached(client, **more) -> int:
    answer = client.chat.completions.create(model=MODEL, messages=SECRET, max_tokens=2, extra_body=more)
    return answer.usage.prompt_tokens_details.cached_tokens


def test_clients_with_keys_of_their_own_do_not_share_prompts(folder):
    with serving(folder, api_keys=("first", "second")) as served:
        first, second = served.client("first"), served.client("second")
        assert cached(first) == 0
        assert cached(second) == 0
        assert cached(first) > 20
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            served.client("third").models.list()


def test_what_was_precomputed_is_for_all(folder):
    with serving(folder, api_keys=("first", "second")) as served:
        tokens = served.model.llm.precompute([SYSTEM])
        for key in ("first", "second"):
            assert 0 < cached(served.client(key)) <= tokens


def test_clients_with_one_key_may_tell_themselves_apart(folder):
    with serving(folder, api_keys=("only",)) as served:
        client = served.client("only")
        assert cached(client) == 0
        assert cached(client, cache_salt="a") == 0
        assert cached(client, cache_salt="a") > 20
        assert cached(client, cache_salt="b") == 0
        with pytest.raises(openai.BadRequestError, match="cache_salt"):
            cached(client, cache_salt="")


def test_clients_take_turns():
    """One client's many images do not hold up another's only one."""
    order = []

    async def work(turns, client, number):
        async with turns.of(client):
            order.append(f"{client}{number}")
            await asyncio.sleep(0)

    async def main():
        turns = Turns()
        tasks = [asyncio.ensure_future(work(turns, "a", number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(work(turns, client, 0)) for client in "bc"]
        gone = asyncio.ensure_future(work(turns, "d", 0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == ["a0", "a1", "a2", "b0", "c0", "a3"], "a had waited when b came"
