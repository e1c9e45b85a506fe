"""Vision-language models end to end: the tokens of ``generate()`` with no image, one, several, and in a mixed batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.compile.exported_once import traced_once  # noqa: F401 (a fixture)
from tests.models.tiny_vlms import IMAGE, VISION_END, VISION_START, VLMS, tiny_vlm
from tt_edge.bundle import Bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.compile.quantize.layers import quantize_model
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.config.quantization import QuantConfig
from tt_edge.dtypes import DType
from tt_edge.errors import UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.choose import open_part
from tt_edge.runtime.multimodal.encoder import VisionEncoder
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.pipeline import VisionPipeline
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Scheduler

pytestmark = pytest.mark.usefixtures("traced_once")

GRID = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NEW = 12
BACKENDS = {
    "native": {"backend": "native"},
    "sdpa": {"backend": "sdpa", "cache": "none"},
    "static_v1": {"backend": "sdpa", "cache": "static_v1"},
}


def picture(contract, seed, grid=(1, 4, 6)):
    """What preprocessing would give: random pixels."""
    geometry, generator = contract.geometry, np.random.default_rng(seed)
    if geometry.tile_size is not None:
        pixels = generator.standard_normal((1, 3, *geometry.tile_size)).astype(np.float32)
        return ProcessedImage(pixels, None, geometry.tokens_a_unit)
    pixels = generator.standard_normal((int(np.prod(grid)), geometry.patch_dim)).astype(np.float32)
    return ProcessedImage(pixels, grid, int(np.prod(grid)) // 4)


def prompt(seed, *pictures):
    """Text, and the images in the middle of it."""
    generator = np.random.default_rng(100 + seed)

    def text():
        return generator.integers(3, 290, generator.integers(2, 7)).tolist()

    ids = text()
    for given in pictures:
        ids += [VISION_START, *[IMAGE] * given.tokens, VISION_END, *text()]
    return ids


def reference(model, ids, pictures):
    inputs = {"input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if pictures:
        inputs["pixel_values"] = torch.from_numpy(np.concatenate([p.pixels for p in pictures]))
    if model.config.model_type in GRID:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
        if pictures:
            inputs["image_grid_thw"] = torch.tensor([p.grid for p in pictures])
    out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, -NEW:].tolist()


def compiled(family, path, heads_of_64=False, **settings):
    limits = {"precision": "fp32", "max_batch": 3, "max_input_len": 64, "max_seq_len": 96, "max_image_tokens": 48}
    config = CompileConfig.of(**{**limits, **settings})
    make = lambda: tiny_vlm(family, getattr(torch, config.network.precision.dtype.value), heads_of_64=heads_of_64)  # noqa: E731
    compile_model(make, path, config, EngineTarget())
    bundle = Bundle.open(path)
    session, vision = open_part(bundle, "decoder", "reference"), open_part(bundle, "vision", "reference")
    axes, merge_size = bundle.manifest.contract.position_axes, vision.contract.geometry.merge_size
    images = SimpleNamespace(placeholders=Placeholders("<image>"))  # nothing is read from files
    processor = MultimodalProcessor(images, (IMAGE,), axes, merge_size)
    return Scheduler(session), VisionPipeline(processor, VisionEncoder(vision)), bundle


def grouped(families):
    """Tests of a family run one after the other in one process, which traces its model once."""
    return [pytest.param(family, marks=pytest.mark.xdist_group(f"vlm-{family}")) for family in families]


def asked(vision, ids, pictures):
    config = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)
    images = {"images": vision.prompt_images(ids, pictures)} if pictures else {}
    return Request(ids, config, **images)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", grouped(VLMS))
def test_tokens_equal_generate(tmp_path, family, backend):
    if family == "blip-2" and backend != "native":
        pytest.skip("the language part is OPT, whose backends test_families has")
    scheduler, pipeline, bundle = compiled(family, tmp_path / "out.ttedge", **BACKENDS[backend])
    model, vision = tiny_vlm(family), bundle.manifest.part("vision")
    one, two, three = picture(vision, 1), picture(vision, 2, (1, 2, 8)), picture(vision, 3, (1, 6, 2))
    cases = [[one], [], [two, one, three]]
    if family == "blip-2":  # whose generate() wants the image in front, and one at least
        cases = [[one], [two]]
    asks = [(prompt(i, *pictures), pictures) for i, pictures in enumerate(cases)]
    requests = [asked(pipeline, ids, pictures) for ids, pictures in asks]
    for request in requests:  # a batch that mixes them
        scheduler.submit(request)
    scheduler.run(requests)
    for request, (ids, pictures) in zip(requests, asks, strict=True):
        assert [token.id for token in request.tokens] == reference(model, ids, pictures)


@pytest.mark.parametrize("top_logits", [None, 8])
def test_a_conversation_computes_the_image_once(tmp_path, top_logits):
    """A second turn finds image and answer in the cache; another image in the same place does not pass for it."""
    scheduler, pipeline, bundle = compiled("qwen2_5_vl", tmp_path / "out.ttedge", max_batch=1, top_logits=top_logits)
    vision, model = bundle.manifest.part("vision"), tiny_vlm("qwen2_5_vl")
    one, other = picture(vision, 1, (1, 6, 8)), picture(vision, 2, (1, 6, 8))
    first = prompt(0, one)
    request = asked(pipeline, first, [one])
    scheduler.submit(request)
    scheduler.run([request])
    second = [*first, *[token.id for token in request.tokens], 7, 8, 9]
    for given, reused in ((one, len(first) + NEW - 1), (other, first.index(IMAGE))):
        request = asked(pipeline, second, [given])
        scheduler.submit(request)
        scheduler.run([request])
        assert request.reused == reused
        assert [token.id for token in request.tokens] == reference(model, second, [given])


@pytest.mark.parametrize("family", grouped(["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]))
def test_the_plugin_backend(tmp_path, family):
    """AttentionPlugin is float16, so its logits are compared: no further from the fp32 truth than twice PyTorch's own."""
    scheduler, pipeline, bundle = compiled(
        family, tmp_path / "out.ttedge", heads_of_64=True, backend="plugin", precision="fp16"
    )
    assert bundle.network().kinds()["PLUGIN_V3"] == 2
    given = picture(bundle.manifest.part("vision"), 1)
    ids = prompt(0, given)
    request = asked(pipeline, ids, [given])
    rows = []
    forward = scheduler.session.forward
    scheduler.session.forward = lambda *a, **k: rows.append(forward(*a, **k).copy()) or rows[-1]
    scheduler.submit(request)
    scheduler.step()
    inputs = {"input_ids": torch.tensor([ids])}
    if family in GRID:
        inputs |= {
            "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
            "image_grid_thw": torch.tensor([given.grid]),
        }
    pixels = torch.from_numpy(given.pixels)
    with torch.no_grad():
        exact = tiny_vlm(family, heads_of_64=True)(pixel_values=pixels, **inputs).logits[0, -1].numpy()
        own = tiny_vlm(family, torch.float16, heads_of_64=True)(pixel_values=pixels.half(), **inputs).logits[0, -1]
    bar = 2 * np.linalg.norm(own.float().numpy() - exact)
    assert np.linalg.norm(rows[0][0] - exact) < bar + 1e-3 * np.linalg.norm(exact)


def test_older_plugins_have_no_m_rope(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"AttentionPlugin 0\.9\.1 looks up .*give --plugin-contract 0\.11"):
        compiled(
            "qwen2_vl",
            tmp_path / "out.ttedge",
            heads_of_64=True,
            backend="plugin",
            precision="fp16",
            plugin_contract="0.9.1",
        )


@pytest.mark.parametrize("quant", ["int8_wo", "int4_wo"])
def test_the_language_part_is_quantized(tmp_path, quant):
    """And nothing else: the tower's features are those of the model as it was."""
    recipe = QuantConfig(quant, group_size=32)
    scheduler, pipeline, bundle = compiled("qwen2_5_vl", tmp_path / "out.ttedge", quant=recipe)
    model = tiny_vlm("qwen2_5_vl")
    found = quantize_model(model, recipe, {})
    assert len(found) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in found)
    given = picture(bundle.manifest.part("vision"), 1)
    ids = prompt(0, given)
    request = asked(pipeline, ids, [given])
    scheduler.submit(request)
    scheduler.run([request])
    assert [token.id for token in request.tokens] == reference(model, ids, [given])
    assert DType.INT8 in bundle.network().weight_bytes() or DType.INT4 in bundle.network().weight_bytes()
