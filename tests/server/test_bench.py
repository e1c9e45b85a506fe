"""`tt-edge bench --server`: beside our own server, and servers that are not as they should be."""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.server.conftest import MODEL, serving
from tt_edge.cli import main
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.benchmark.client import OpenAIClient, ServerError
from tt_edge.runtime.benchmark.served import ServerBenchmark
from tt_edge.runtime.benchmark.workload import Plan


def measure(url: str, plan: Plan, *, chat: bool = False, **settings):
    client = OpenAIClient(url, chat=chat, timeout=30, **settings)
    return ServerBenchmark(client, plan, chat=chat).measure()


@pytest.mark.parametrize("chat", [False, True])
def test_a_batch(served, chat):
    found = measure(served.url, Plan(24, 6, batch=2, runs=2), chat=chat)
    assert found.what == f"{MODEL} at {served.url}"
    assert len(found.good) == len(found.requests) == 4
    for request in found.good:
        assert request.output_tokens == 6, "as the server counts, past an end of sequence too"
        assert 1 <= len(request.chunks) <= 6
    # Words are drawn anew for each request, and this small vocabulary splits some into many tokens.
    assert np.mean([request.input_tokens for request in found.good]) == pytest.approx(24, abs=10)
    assert {"ttft", "tpot", "end_to_end"} <= found.latencies().keys()


def test_requests_at_a_rate(served):
    found = measure(f"{served.url}/v1/", Plan(16, 4, batch=8, warmup=0, rate=40.0, requests=6))
    assert len(found.good) == 6


def test_conversations(served):
    found = measure(served.url, Plan(4, 3, warmup=0, runs=2, prefix=24, turns=3))
    turns = found.turns()
    assert sorted(turns) == [1, 2, 3]
    assert turns[3].reuse() > turns[1].reuse(), "our server says how much of a prompt was cached"


def test_a_key(folder):
    with serving(folder, api_keys=("secret",)) as guarded:
        with pytest.raises(ServerError, match=r"401 Unauthorized.*give --api-key"):
            measure(guarded.url, Plan(8, 2))
        assert measure(guarded.url, Plan(8, 2, runs=1), api_key="secret").good


def test_the_command(served, capsys, tmp_path):
    file = tmp_path / "bench.json"
    arguments = ["--isl", "16", "--osl", "4", "--runs", "1", "-o", str(file)]
    assert main(["bench", "--server", served.url, *arguments]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 x 16 input tokens, 4 new, 1 runs after 1\n\ntiny at http://127.0.0.1:")
    assert "TTFT" in out
    [row] = json.loads(file.read_text())["measured"]
    assert (row["requests"], row["output_tokens"], row["is_reference"]) == (1, 4, False)


class Handler(BaseHTTPRequestHandler):
    """Answers as ``answer`` says: its status and body; a list is a stream of events."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._say(*self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self._say(*self.server.answer(body))

    def _say(self, status: int, body: object) -> None:
        if isinstance(body, list):
            data = b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in body)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def foreign(answer, models=(200, {"data": [{"id": "other"}]})):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.models, server.bodies = answer, models, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pieces(*texts: str) -> list:
    return [*({"choices": [{"text": text}]} for text in texts), b"[DONE]"]


def test_a_server_without_counts_and_without_our_fields():
    def answer(body):
        for name in ("stream_options", "ignore_eos"):
            if name in body:
                return 400, {"error": {"message": f"Unknown field: {name}"}}
        return 200, pieces(" a", "", " b", " c")

    with foreign(answer) as (server, url):
        found = measure(url, Plan(8, 3, runs=1))
    assert [r.output_tokens for r in found.good] == [3], "pieces with text"
    assert [r.input_tokens for r in found.good] == [8], "words"
    assert len(found.notes) == 2
    assert "a piece of the stream counts as a token" in found.notes[0]
    assert "answers may be shorter than --osl" in found.notes[1]
    assert "ignore_eos" not in server.bodies[-1]


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_that_counts_only_answers(chat):
    """How many tokens a word has stays unknown, so each is one."""
    events = [{"choices": [{"text": " a b", "delta": {"content": " a b"}}]}, {"usage": {"completion_tokens": 2}}]
    with foreign(lambda _: (200, events)) as (server, url):
        found = measure(url, Plan(12, 2, runs=1), chat=chat)
    assert [r.input_tokens for r in found.good] == [12]
    assert "a word of a prompt too" in found.notes[0]
    asked = server.bodies[-1]["messages"][0]["content"] if chat else server.bodies[-1]["prompt"]
    assert len(asked.split()) == 12


def test_a_count_that_does_not_grow_is_not_believed():
    """Prompts would have ten times as many words as tokens are asked for; the result says what the server counted."""
    events = [{"choices": [{"text": " a"}]}, {"usage": {"completion_tokens": 1, "prompt_tokens": 9}}]
    with foreign(lambda _: (200, events)) as (server, url):
        found = measure(url, Plan(40, 2, runs=1))
    assert len(server.bodies[-1]["prompt"].split()) == 40
    assert found.notes == ("prompts have 9 tokens on average, not --isl 40",)


def test_conversations_that_no_longer_fit(capsys):
    """The server refuses every second turn: the first is shown."""

    def answer(body):
        words = len(body["prompt"].split())
        if words > 72:
            return 400, {"error": "too long"}
        return 200, [*pieces(" yes")[:-1], {"usage": {"completion_tokens": 1, "prompt_tokens": words}}]

    with foreign(answer) as (_, url):
        arguments = ["--agentic", "--turns", "2", "--prefix-tokens", "50", "--isl", "16", "--osl", "2", "--runs", "1"]
        assert main(["bench", "--server", url, *arguments]) == 0
    out = capsys.readouterr().out
    assert "turn 1" in out
    assert "failed" in out
    assert "too long" in out


@pytest.mark.parametrize("choices", [5, True, "text", {"0": 1}, [5]])
def test_choices_of_another_form(choices):
    with foreign(lambda _: (200, [{"choices": choices}, {"choices": [{"text": " a"}]}])) as (_, url):
        assert measure(url, Plan(8, 2, runs=1)).good[0].chunks


def test_reasoning_is_part_of_an_answer():
    chunks = [
        {"choices": [{"delta": {"reasoning_content": "so"}}]},
        {"choices": [{"delta": {"content": "yes"}}]},
        b"[DONE]",
    ]
    with foreign(lambda _: (200, chunks)) as (_, url):
        assert len(measure(url, Plan(8, 2, runs=1), chat=True).good[0].chunks) == 2


def test_pieces_that_are_no_tokens():
    """A role before anything is computed; and, as a real server does, the prompt as the first text."""
    chunks = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "<user>words"}}]},
        {"choices": [{"delta": {"content": "yes"}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": 1, "prompt_tokens": 9}},
    ]
    with foreign(lambda _: (200, chunks)) as (_, url):
        found = measure(url, Plan(8, 2, runs=1), chat=True)
    assert [len(r.chunks) for r in found.good] == [2]
    assert "the server streams more pieces than tokens" in found.notes[0]


def test_images():
    """Each prompt has another one, as a PNG of the size that was asked for."""
    image = pytest.importorskip("PIL.Image")
    with foreign(lambda _: (200, [{"choices": [{"delta": {"content": "a"}}]}, b"[DONE]"])) as (server, url):
        assert main(["bench", "--server", url, "--endpoint", "chat", "--image-size", "64x48", "--runs", "2"]) == 0
    prompts = [
        body["messages"][0]["content"] for body in server.bodies if isinstance(body["messages"][0]["content"], list)
    ]
    urls = [picture["image_url"]["url"] for picture, _ in prompts]
    assert len(set(urls)) == len(urls) == 3, "a warm-up and two runs"
    data = base64.b64decode(urls[0].removeprefix("data:image/png;base64,"))
    assert image.open(io.BytesIO(data)).size == (64, 48)
    assert prompts[0][1]["text"].count(" ") > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "64x48"], "--image-size is for single chats; give --endpoint chat"),
        (["--image-size", "64", "--endpoint", "chat"], "--image-size is '64'; give width and height"),
        (["--image-size", "0x9", "--endpoint", "chat"], "--image-size is '0x9'"),
        (["--image-tokens", "8"], "a server is sent image files: give --image-size"),
        (["--against", "hf"], "--against is for a bundle; omit it"),
        (["--runtime", "reference"], "--runtime reference is for a bundle, and a server has its own; omit it"),
        (["--require-signature", "k.pem"], "--require-signature is for a bundle; omit it"),
        (["--timeout", "0"], "--timeout is 0; give seconds above 0"),
        (["--timeout", "inf"], "--timeout is inf"),
        (["--api-key", "a\nb"], "the API key has characters that HTTP does not send"),
    ],
)
def test_bad_options(options, message, capsys):
    assert main(["bench", "--server", "http://127.0.0.1:9", *options]) == 2
    assert message in capsys.readouterr().err


def test_failures_later_on_are_counted():
    calls = []

    def answer(_):
        calls.append(1)
        return (200, pieces("a", "b")) if len(calls) % 2 else (503, b"<html>busy</html>")

    with foreign(answer) as (_, url):
        client = OpenAIClient(url, chat=False, timeout=10)
        benchmark = ServerBenchmark(client, Plan(8, 2, warmup=0, runs=4), chat=False)
        benchmark._calibrate = lambda: None  # which needs a server that answers
        found = benchmark.measure()
    assert (len(found.good), len(found.requests)) == (2, 4)
    assert "503 Service Unavailable: <html>busy</html>" in found.to_dict()["failed"][0]


@pytest.mark.parametrize(
    ("answer", "models", "message"),
    [
        (
            (404, b"<html><h1>not here</h1></html>"),
            None,
            "404 Not Found: <html><h1>not here</h1></html>; check the address",
        ),
        ((500, {"error": {"message": "out of memory"}}), None, "500 Internal Server Error: out of memory"),
        ((429, {"detail": "slow down"}), None, "429 Too Many Requests: slow down; lower --rate or --batch"),
        ((200, b"<html>a page</html>"), None, "streamed no answer; it may not be a server with OpenAI's endpoints"),
        ((200, [b"{nonsense"]), None, "streams b'{nonsense', which is not JSON"),
        ((200, [{"error": {"message": "the GPU is gone"}}]), None, "ended the answer with an error: the GPU is gone"),
        ((200, []), (200, b"<html>"), "is not JSON but b'<html>'; give the address of the API"),
        ((200, []), (200, {"data": []}), "lists no model; give --model"),
        ((200, []), (404, b""), "answers GET /v1/models with 404 Not Found: an empty answer"),
    ],
)
def test_servers_that_do_not_answer(answer, models, message, capsys):
    with foreign(lambda _: answer, models or (200, {"data": [{"id": "x"}]})) as (_, url):
        assert main(["bench", "--server", url, "--runs", "1"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_addresses():
    with pytest.raises(ServerError, match=r"cannot be reached .*Connection refused.*; start the server"):
        measure("http://127.0.0.1:9", Plan(8, 2))
    for url in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:99999"):
        with pytest.raises(InvalidInputError, match="give http://HOST:PORT"):
            OpenAIClient(url, chat=False, timeout=1)
