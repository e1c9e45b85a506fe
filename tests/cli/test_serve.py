"""The server as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tt_edge.server.access.keys import api_keys

openai = pytest.importorskip("openai")

#: Longer than what is computed again rather than copied (``scheduler.py``).
SYSTEM = "Be kind to all who wait at the light."


@contextmanager
def serving(bundle, *options: object, **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process and the server's address."""
    argv = [
        sys.executable,
        "-m",
        "tt_edge",
        "serve",
        bundle,
        "--port",
        "0",
        "--runtime",
        "reference",
        *map(str, options),
    ]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        seen = ""
        while (found := re.search(r"http://\S+?:\d+", seen)) is None:
            line = process.stderr.readline()
            assert line, f"the server ended: {seen}"
            seen += line
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_stops(bundle, how):
    with serving(bundle, TT_EDGE_API_KEY="k") as (process, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            messages = [{"role": "user", "content": "Is it red?"}]
            answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
            assert answer.usage.completion_tokens <= 4
            stream = client.completions.create(model="tiny", prompt="The", max_tokens=40, stream=True)
            next(iter(stream))
            process.send_signal(how)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def test_the_system_prompt_is_computed_once(bundle, tmp_path):
    options = ("--system", SYSTEM, "--prefix-cache", tmp_path / "kv", "--served-model-name", "m")
    for _ in range(2):
        with serving(bundle, *options) as (_, url), openai.OpenAI(base_url=f"{url}/v1", api_key="-") as client:
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Go"}]
            answer = client.chat.completions.create(model="m", messages=messages, max_tokens=2)
            assert answer.usage.prompt_tokens_details.cached_tokens > 16


def test_bad_options(tt_edge, bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("TT_EDGE_API_KEY", raising=False)
    tt_edge("serve", bundle, "--host", "0.0.0.0").fails_with(
        "--host 0.0.0.0 without a key lets the whole network in; set TT_EDGE_API_KEY or --api-key-file", 2
    )
    tt_edge("serve", bundle, "--timeout", 0).fails_with("--timeout 0.0 or --port 8000 is out of range", 2)
    tt_edge("serve", bundle, "--api-key-file", tmp_path / "no").fails_with("cannot be read", 2)
    (tmp_path / "empty").write_text("\n")
    tt_edge("serve", bundle, "--api-key-file", tmp_path / "empty").fails_with("does not hold a key", 2)
    (tmp_path / "spaces").write_text("one\ntwo words\n")
    tt_edge("serve", bundle, "--api-key-file", tmp_path / "spaces").fails_with("line 2 is no key; write one without", 2)
    tt_edge("serve", bundle, "--max-connections-per-address", 0).fails_with("-per-address is 0; give at least 1", 2)
    tt_edge("serve", tmp_path / "no").fails_with("does not exist", 2)


def test_keys(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("first\n\n second \nfirst\n")
    assert api_keys(tmp_path / "keys") == ("first", "second")
    monkeypatch.setenv("TT_EDGE_API_KEY", "third")
    assert api_keys(None) == ("third",)
    monkeypatch.delenv("TT_EDGE_API_KEY")
    assert api_keys(None) == ()


def test_a_port_that_is_taken(tt_edge, bundle):
    with serving(bundle) as (_, url):
        result = tt_edge("serve", bundle, "--port", url.rsplit(":", 1)[1], "--runtime", "reference")
        assert result.status == 2
        assert "choose another --port, or stop what listens there" in result.err.splitlines()[-1]
