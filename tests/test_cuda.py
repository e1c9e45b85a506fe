"""Device memory on a real GPU; skipped where there is none."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from tests.models.toy_engine import (
    HIDDEN,
    PATCH_DIM,
    VISION_KERNEL,
    compile_kernel,
    continuation,
    next_token,
    open_session,
    open_vision,
)
from tt_edge import cuda
from tt_edge.contract import IMAGE_FEATURES
from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.encoder import VisionEncoder
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.pipeline import VisionPipeline
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES
from tt_edge.runtime.multimodal.vision_inputs import vision_inputs
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Scheduler

#: The token that stands for an image.
IMAGE = 3


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
    assert calls["cudaStreamBeginCapture"] == calls["cudaGraphInstantiate"] == 2  # of two rows, then of three
    assert calls["cudaGraphLaunch"] >= 15  # the others: runs of prompts, and the first of new slots or shapes
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


@pytest.fixture(scope="module")
def vision_kernel():
    return compile_kernel(VISION_KERNEL, b"toy_vision", pointers=3, numbers=2)


def picture(rows, columns, seed):
    """A preprocessed image with so many image tokens, and the kernel's result for each without its segment."""
    pixels = np.random.default_rng(seed).integers(0, 9, (4 * rows * columns, PATCH_DIM)).astype(np.float32)
    found = ProcessedImage(pixels, (1, 2 * rows, 2 * columns), rows * columns)
    return found, pixels.reshape(rows * columns, -1).sum(axis=1)


def test_features_of_several_sizes(vision_kernel, calls):
    session = open_vision(vision_kernel)
    calls.clear()
    for count, shape in enumerate([(2, 3), (1, 2), (3, 2), (1, 1)]):  # one token is fewer than the profile's least
        pictures = [picture(*shape, seed) for seed in range(1 + count % 2)]
        feeds, rows = vision_inputs(session.contract, [found for found, _ in pictures])
        features = session.run(feeds)[IMAGE_FEATURES][rows]
        want = np.concatenate([1000 * segment + sums for segment, (_, sums) in enumerate(pictures)])
        assert np.array_equal(features, want[:, None] + np.arange(HIDDEN))
    assert calls["cudaMalloc"] == calls["cudaHostAlloc"] == 0
    assert calls["cudaStreamSynchronize"] == 4
    session.close()


def test_pictures_to_tokens(kernel, vision_kernel):
    """Features go to each slot's part of the table on the device; text, one image and two share a batch, and its graphs."""
    images = SimpleNamespace(placeholders=Placeholders("<image>"))
    vision = VisionPipeline(MultimodalProcessor(images, (IMAGE,)), VisionEncoder(open_vision(vision_kernel)))
    shapes = ([(2, 3), (1, 4)], [], [(3, 2)])
    with open_session(kernel, images=True) as session:
        scheduler, asked = Scheduler(session), []
        for row, own in enumerate(shapes):
            pictures = [picture(*shape, 10 * row + at) for at, shape in enumerate(own)]
            ids, seen = [5, 7], [5, 7]
            for segment, (found, sums) in enumerate(pictures):
                ids += [*[IMAGE] * found.tokens, 9]
                seen += [*(1000 * segment + sums).astype(int).tolist(), 9]
            images = vision.prompt_images(ids, [found for found, _ in pictures]) if pictures else NO_IMAGES
            request = Request(ids, GenerationConfig(8, ignore_eos=True), images=images)
            asked.append((request, continuation(seen, 8)))
        for request, _ in asked:
            scheduler.submit(request)
        scheduler.run([request for request, _ in asked])
        assert [[token.id for token in request.tokens] for request, _ in asked] == [want for _, want in asked]
    vision.close()


def test_nothing_of_a_vision_session_is_left_on_the_device(vision_kernel):
    used = []
    for _ in range(4):
        session = open_vision(vision_kernel)
        session.run(vision_inputs(session.contract, [picture(2, 3, 0)[0]])[0])
        session.close()
        used.append(cuda.memory_in_use())
    assert used[1] == used[-1]
