"""What the server refuses, gives up, and survives."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import openai
import pytest

from tests.server.conftest import MODEL, serving

LONG = {"model": MODEL, "prompt": "The light", "max_tokens": 60, "ignore_eos": True}


def post(url: str, body: object, **headers) -> tuple[int, dict, dict]:
    """Status, JSON and headers of the answer to a POST of ``body``: bytes, or what becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def get(url: str, **headers) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Invalid JSON: EOF while parsing"),
        (b"{", "Invalid JSON"),
        (b"[1]", "the body is not a JSON object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 5000, "Invalid JSON: recursion limit exceeded"),
        (b"{}", "model: Field required"),
        (b'{"model": "tiny", "prompt": []}', "prompt"),
        (b'{"model": "tiny", "prompt": [99999]}', "token id 99999, outside the vocabulary"),
        (b'{"model": "tiny", "prompt": ""}', "has no tokens"),
    ],
)
def test_bodies_that_are_none(served, body, message):
    status, answer, _ = post(f"{served.url}/v1/completions", body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_a_large_body(folder):
    with serving(folder, max_body=1000) as served:
        status, answer, _ = post(f"{served.url}/v1/completions", {**LONG, "prompt": "x" * 2000})
        assert (status, answer["error"]["message"]) == (413, "the body is larger than 1000 bytes; send less")


def test_what_a_web_page_could_send_is_refused(folder):
    """A page may post text/plain anywhere, and by DNS rebinding reach this machine under its own name."""
    with serving(folder, hosts={"127.0.0.1"}) as served:
        url = f"{served.url}/v1/completions"
        status, answer, _ = post(url, LONG, **{"Content-Type": "text/plain"})
        assert (status, answer["error"]["message"].split(";")[0]) == (
            415,
            "content type 'text/plain' is not application/json",
        )
        assert get(f"{served.url}/v1/models", Host="evil.example:80")[0] == 421
        assert get(f"{served.url}/v1/models")[0] == 200


def test_health_and_metrics(folder):
    with serving(folder, api_keys=("secret",)) as served:
        assert get(f"{served.url}/health") == (200, '{"status":"ok"}')
        assert get(f"{served.url}/metrics")[0] == 401
        key = {"Authorization": "Bearer secret"}
        post(f"{served.url}/v1/completions", {**LONG, "max_tokens": 5}, **key)
        _, text = get(f"{served.url}/metrics", **key)
        lines = set(text.splitlines())
        assert {
            "tt_edge_requests_running 0.0",
            "tt_edge_requests_waiting 0.0",
            "tt_edge_generated_tokens_total 5.0",
            f"tt_edge_computed_tokens_total {float(served.model.stats.computed_tokens)}",
            f"tt_edge_prefill_tokens {float(served.model.llm.scheduler.prefill_tokens)}",
            'tt_edge_http_responses_total{path="/v1/completions",status="200"} 1.0',
            'tt_edge_http_responses_total{path="/metrics",status="401"} 1.0',
            "tt_edge_ttft_seconds_count 1.0",
            "tt_edge_tpot_seconds_count 1.0",
        } <= lines
        get(f"{served.url}/no/such/path", **key)
        assert 'path="other",status="404"' in get(f"{served.url}/metrics", **key)[1]


def slow(served, monkeypatch, seconds: float = 0.05) -> None:
    execute = served.model.llm.session._execute

    def slowly(feeds, rows):
        threading.Event().wait(seconds)
        return execute(feeds, rows)

    monkeypatch.setattr(served.model.llm.session, "_execute", slowly)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(served, monkeypatch, stream):
    slow(served, monkeypatch)
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    body = json.dumps({**LONG, "stream": stream})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    served.wait_until(lambda: served.model.running == 1, "running")
    if stream:
        connection.getresponse().read(10)
    before = served.model.stats.new_tokens
    connection.close()
    served.wait_until(lambda: served.model.running == 0, "ended")
    assert served.model.stats.new_tokens - before < 50


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long(folder, monkeypatch, stream):
    with serving(folder, timeout_s=0.3) as served, served.client() as client:
        slow(served, monkeypatch)
        with pytest.raises(openai.APIError, match=r"the answer took longer than 0\.3 s"):
            list(client.completions.create(model=MODEL, prompt="The", max_tokens=60, stream=stream))
        served.wait_until(lambda: served.model.running == 0, "ended")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_ten_times_its_capacity(folder, monkeypatch):
    """Two rows and three places in the queue against 50 clients: five are served, the others told to come again."""
    with serving(folder, max_waiting=3) as served:
        slow(served, monkeypatch, 0.02)
        before, refusals = resident_mb(), set()

        async def main():
            settings = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60}
            async with openai.AsyncOpenAI(**settings) as client:

                async def ask(number: int) -> int:
                    values = {
                        "model": MODEL,
                        "prompt": f"The light {number}",
                        "max_tokens": 30,
                        "stream": number % 2 == 0,
                    }
                    try:
                        answer = await client.completions.create(**values, extra_body={"ignore_eos": True})
                    except openai.RateLimitError as error:
                        refusals.add((error.response.headers["Retry-After"], error.code))
                        return 429
                    if values["stream"]:
                        assert [c.choices[0].finish_reason async for c in answer][-1] == "length"
                    return 200

                return Counter(await asyncio.gather(*(ask(number) for number in range(50))))

        statuses = asyncio.run(main())
        assert statuses[200] >= 5
        assert statuses[200] + statuses[429] == 50
        assert statuses[429] >= 30
        assert refusals == {("1", "queue_full")}
        assert get(f"{served.url}/health")[0] == 200
        assert resident_mb() - before < 50
