"""A server on a port of this machine, and OpenAI's own client for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.runtime.llms import make_llm
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.llm import LLM

pytest.importorskip("transformers")  # which makes the tokenizer
uvicorn = pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from tt_edge.server import Settings, create_app  # noqa: E402
from tt_edge.server.access.connections import ConnectionLimits, limited  # noqa: E402

MODEL = "tiny"


@dataclass
class Served:
    """A running server."""

    url: str
    model: AsyncLLM

    def client(self, api_key: str = "none", **settings) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60, **settings)

    def wait_until(self, holds, what: str) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, f"still not: {what}"
            time.sleep(0.005)


@contextmanager
def serving(folder, max_waiting: int = 8, **settings) -> Iterator[Served]:
    """A small language model with random weights; ``folder`` has its tokenizer."""
    with serving_llm(make_llm(folder, name=MODEL), max_waiting, **settings) as served:
        yield served


@contextmanager
def serving_llm(llm: LLM, max_waiting: int = 8, **settings) -> Iterator[Served]:
    model = AsyncLLM(llm, max_waiting)
    http = limited(settings.pop("limits", ConnectionLimits()))
    config = uvicorn.Config(
        create_app(model, Settings(**settings)),
        port=0,
        log_level="error",
        lifespan="on",
        http=http,
        loop="asyncio",
        ws="none",
    )
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Served(f"http://127.0.0.1:{socket.getsockname()[1]}", model)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        assert not model.is_alive


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(folder):
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with served.client() as client:
        yield client


@pytest.fixture(scope="session")
def road_bundle(tmp_path_factory):
    """The trained model of examples/road_scenes, two rows."""
    from examples.road_scenes.evaluate import CHECKPOINT
    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.config import CompileConfig, EngineTarget

    config = CompileConfig.of(max_batch=2, max_input_len=128, max_seq_len=224, max_image_tokens=96)
    path = tmp_path_factory.mktemp("road") / "road.ttedge"
    compile_checkpoint(str(CHECKPOINT), path, config, EngineTarget())
    return path
