"""Device memory on a real GPU; skipped where there is none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.toy_engine import compile_kernel, continuation, next_token, open_session
from tt_edge import cuda
from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.generation import generate


@pytest.fixture(autouse=True, scope="module")
def gpu():
    try:
        cuda.compute_capability()
    except TTEdgeError as error:
        pytest.skip(str(error))


def test_copies_and_zeros():
    stream, buffer = cuda.Stream(), cuda.Buffer(64)
    there, back = np.arange(16, dtype=np.float32), np.full(16, -1, np.float32)
    buffer.fill_zero(stream)
    buffer.copy_from(there[:8], stream)
    buffer.copy_to(back, stream)
    stream.synchronize()
    assert back.tolist() == [*range(8), *[0] * 8]
    for thing in (buffer, buffer, stream, stream):
        thing.close()


def test_the_gpu_has_a_name():
    assert cuda.compute_capability().startswith("sm")
    assert cuda.device_name().isprintable()


def test_too_much_memory_is_an_error_and_the_next_call_is_none():
    with pytest.raises(EngineError, match="cudaMalloc failed"):
        cuda.Buffer(1 << 60)
    cuda.Buffer(1).close()


@pytest.fixture(scope="module")
def kernel():
    return compile_kernel()


@pytest.fixture
def session(kernel):
    with open_session(kernel) as opened:
        yield opened


@pytest.fixture
def calls(monkeypatch):
    """Counts of the CUDA functions that are called."""
    counts: Counter[str] = Counter()
    call = cuda.call

    def counting(name, *arguments):
        counts[name] += 1
        return call(name, *arguments)

    monkeypatch.setattr(cuda, "call", counting)
    return counts


PROMPTS = [list(range(n, 3 * n, 2)) for n in (5, 1, 12)]


def test_tokens_through_graphs(session, calls):
    """Ragged prompts, then decode steps that are captured once and launched from then on."""
    results = generate(session, PROMPTS, GenerationConfig(20))
    assert [r.new_token_ids for r in results] == [continuation(p, 20) for p in PROMPTS]
    assert calls["cudaStreamBeginCapture"] == calls["cudaGraphInstantiate"] == 1
    assert calls["cudaGraphLaunch"] == 18  # a prefill, a decode step with new shapes, and these
    assert calls["cudaMalloc"] == calls["cudaHostAlloc"] == 0


def test_a_decode_step_is_a_launch_and_a_wait(session, calls):
    session.reset(2)
    for _ in range(3):
        session.forward(np.ones((2, 1), np.int64), np.ones(2, np.int64))
    calls.clear()
    session.forward(np.ones((2, 1), np.int64), np.ones(2, np.int64))
    assert calls == {"cudaGraphLaunch": 1, "cudaStreamSynchronize": 1}


def test_rows_that_finish_early_and_a_batch_that_shrinks(session):
    scheduler_results = [generate(session, PROMPTS[:n], GenerationConfig(6)) for n in (3, 1, 2)]
    for results in scheduler_results:
        for prompt, result in zip(PROMPTS, results, strict=False):
            assert result.new_token_ids == continuation(prompt, 6)


def test_a_prefix_is_read_from_one_row_and_written_to_another(session):
    prompt = PROMPTS[2]
    session.reset(2)
    session.forward(np.array([prompt, prompt]), np.array([len(prompt), 0]))
    kept = session.read_kv(0, prompt[:8])
    stored = kept.tensors["past_key_0"].view(np.float32)[0, :, 0]
    assert stored.tolist() == prompt[:8]
    session.reset(3)
    session.write_kv(2, kept)
    logits = session.forward(np.array([prompt[8:]] * 3), np.array([0, 0, len(prompt) - 8]))
    assert logits[2].argmax() == next_token(prompt)


def test_nothing_is_left_on_the_device(kernel):
    used = []
    for _ in range(4):
        with open_session(kernel) as opened:
            generate(opened, PROMPTS, GenerationConfig(5))
        used.append(cuda.memory_in_use())
    assert used[1] == used[-1]
