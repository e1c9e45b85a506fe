"""Towers of tiles with more than one table or one size of pixels: images to answers, equal to ``generate()``.

Others are asked by ``benchmarks/coverage.py --kind vlm``.
"""

from __future__ import annotations

import pytest
from PIL import Image

from tests.compile.vision.answers import assert_equal_answers, compiled
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.config import CompileConfig

LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=96, max_seq_len=320, max_image_tokens=256)


@pytest.fixture(scope="module", params=["granite_docling", "ovis2", "deepseek_vl_hybrid"])
def both(request, tmp_path_factory):
    """The compiled model, the one in PyTorch, and the folder of bundle and checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    with compiled(request.param, folder, LIMITS) as found:
        yield found


def test_images_to_answers(both):
    """Of one tile and of several, two in a prompt, beside a prompt without any; some are computed in pieces."""
    llm, theirs, _ = both
    wide, tall, small = (Image.fromarray(photo(*size, i)) for i, size in enumerate([(60, 80), (57, 33), (28, 28)]))
    asked = [("<image>what is it?", [wide]), ("look: <image> and <image> so", [tall, small]), ("hello", [])]
    assert_equal_answers(llm, theirs, asked)


def test_verify(both):
    """Pixels, every table of features, logits and tokens."""
    *_, folder = both
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()
