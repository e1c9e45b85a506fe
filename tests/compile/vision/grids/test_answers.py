"""Photos of several proportions to answers, equal to ``generate()`` with the checkpoint's own processor.

Others of these families are asked by ``benchmarks/coverage.py --kind vlm``.
"""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.compile.vision.answers import GREEDY, NEW, assert_equal_answers, compiled
from tests.runtime.multimodal.images.sample_images import photo
from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import VISION
from tt_edge.compile.parity import verify_bundle
from tt_edge.config import CompileConfig
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.build import build_engine
from tt_edge.runtime.multimodal.sources import Video, VideoFile

#: Prompts of more than 48 tokens are computed in pieces.
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=48, max_seq_len=160, max_image_tokens=64)


@pytest.fixture(scope="module", params=["glm4v", "mistral3", "hunyuan_vl", "cohere_compass"])
def both(request, tmp_path_factory):
    """The compiled model, the one in PyTorch, and the folder of bundle and checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    with compiled(request.param, folder, LIMITS) as found:
        yield found


def test_photos_to_answers(both):
    """Small and large, wide and tall, alone, two in a prompt, beside a prompt without any; a large one is scaled to fit."""
    llm, theirs, _ = both
    image = llm.vision.processor.placeholders.in_prompt
    sizes = [(60, 80), (57, 33), (20, 90), (30, 30)]
    wide, tall, strip, small = (Image.fromarray(photo(*size, number)) for number, size in enumerate(sizes))
    asked = [
        (f"{image}what is it?", [wide]),
        (f"look: {image} and {image} so", [tall, strip]),
        ("hello", []),
        (f"{image}?", [small]),
    ]
    assert_equal_answers(llm, theirs, asked)
    [large] = llm.generate([f"{image}what?"], GREEDY, images=[[Image.fromarray(photo(700, 900))]])
    assert len(large.new_token_ids) == NEW


def test_a_video(both, tmp_path):
    """GLM-4.1V's: frames between an image's tokens, and the second behind each two; from frames and from a file. Cohere Compass's:
    as Qwen3-VL's."""
    llm, theirs, _ = both
    videos = llm.vision.processor
    if videos.video_processor is None:
        assert theirs.model.config.model_type not in ("glm4v", "cohere_compass")
        with pytest.raises(UnsupportedModelError, match=r"this model takes no videos.*; give its frames as images"):
            videos.preprocess(Video([photo(40, 60)] * 2))
        return
    film = write_film(tmp_path / "film.mp4", [photo(40, 64, seed=i) for i in range(30)], rate=20)
    frames = Video([photo(40, 60, seed=i) for i in range(3)], fps=0.1)
    of_glm = theirs.model.config.model_type == "glm4v"
    prompt = "<|begin_of_video|><video><|end_of_video|>what?" if of_glm else "<|VIDEO_PAD|>what?"
    assert_equal_answers(llm, theirs, [(prompt, [frames])])
    assert_equal_answers(llm, theirs, [(prompt, [VideoFile(film)]), (f"see {prompt}", [VideoFile(film, fps=5.0)])])
    if of_glm:
        with pytest.raises(
            InvalidInputError, match="num_frames is 4, and this model takes frames by the second; give fps"
        ):
            videos.preprocess(VideoFile(film, count=4))


def test_verify(both):
    """Pixels, features, logits and tokens, each in the order in which the model takes patches."""
    *_, folder = both
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()


def test_its_tower_is_built(both, tensorrt):
    """TensorRT-RTX takes the network, with a table of positions and without."""
    *_, folder = both
    bundle = Bundle.open(folder / "out.ttedge")
    contract = bundle.manifest.part(VISION)
    assert build_engine(tensorrt, bundle.network(VISION), contract.profiles(), "sm89", io.BytesIO()).bytes
