"""The parity check of vision-language models: preprocessing, tower and prompts with images; and that it finds faults."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from examples.road_scenes import evaluate as road_scenes
from tests.models.tiny_vlms import IMAGE
from tests.models.vlm_checkpoints import TOKENS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import VISION
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity import GoldenMaker, verify_bundle
from tt_edge.compile.parity.accuracy import TheirTexts
from tt_edge.compile.parity.images.pytorch_vlm import chat_text, processor_of
from tt_edge.compile.parity.report import PreprocessingParity
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.evaluation.formats.questions import read_questions
from tt_edge.evaluation.requests import Ask
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.sources import SizedImage
from tt_edge.runtime.text.chat import render_chat
from tt_edge.runtime.text.chat_template import ChatTemplate

LIMITS = {"max_batch": 2, "max_input_len": 96, "max_seq_len": 160, "max_image_tokens": 64}


def compiled(family, folder, precision="fp32", sizes=None, edit=None, **more):
    checkpoint = write_checkpoint(family, folder / "checkpoint", **(sizes or {}))
    if edit is not None:
        tensors = load_file(checkpoint / "model.safetensors")
        edit(tensors)
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = CompileConfig.of(precision=precision, **{**LIMITS, **more})
    compile_checkpoint(str(checkpoint), folder / "out.ttedge", config, EngineTarget())
    return Bundle.open(folder / "out.ttedge"), checkpoint


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return compiled("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", TOKENS)
def test_every_family(family, precision, tmp_path):
    bundle, checkpoint = compiled(family, tmp_path, precision)
    report = verify_bundle(bundle, checkpoint, new_tokens=6)
    assert report.passed, report.render()
    assert {row.pictures for row in report.rows} == ({1} if family == "blip-2" else {0, 1, 2})
    assert len(report.features) == (3 if family == "qwen3_vl" else 1)
    if family == "eagle2":
        assert report.preprocessing == "its processor is code of the checkpoint"
    else:
        assert isinstance(report.preprocessing, PreprocessingParity)
    if precision == "fp32":
        assert report.relative_error < 2e-5
        assert not any(row.ties for row in report.rows)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl"])
def test_towers_with_the_plugin(family, tmp_path):
    """ViTAttentionPlugin in the tower, beside TensorRT's own attention in the language part."""
    bundle, checkpoint = compiled(family, tmp_path, "fp16", {"tower_head": 64}, vision_attention="plugin")
    assert bundle.network(VISION).kinds()["PLUGIN_V3"]
    assert "PLUGIN_V3" not in bundle.network().kinds()
    report = verify_bundle(bundle, checkpoint, new_tokens=6)
    assert report.passed, report.render()


def test_a_batch_of_one_that_says_image_tokens(tmp_path):
    """Greedy search may choose the placeholder of an image, for which there is no image."""

    def favour(tensors):
        head = tensors["lm_head.weight"]
        head.mul_(0.01)[IMAGE].mul_(300)

    bundle, checkpoint = compiled("qwen2_vl", tmp_path, max_batch=1, edit=favour)
    maker = GoldenMaker()
    report = verify_bundle(bundle, checkpoint, new_tokens=6, maker=maker)
    assert report.passed, report.render()
    assert [row.pictures for row in report.rows] == [0, 1, 2]
    said = [IMAGE in prompt.tokens[:-1] for prompt in maker.made(report)[0].prompts]
    assert any(said)


def test_pictures_of_the_users(qwen, tmp_path):
    bundle, checkpoint = qwen
    Image.fromarray(photo(57, 93)).save(tmp_path / "a.png")
    report = verify_bundle(bundle, checkpoint, new_tokens=4, images=[str(tmp_path / "a.png")])
    assert report.passed
    assert {row.pictures for row in report.rows} == {0, 1}
    with pytest.raises(InvalidInputError, match=r"missing.png does not exist"):
        verify_bundle(bundle, checkpoint, images=[str(tmp_path / "missing.png")])


def test_pictures_that_do_not_fit(tmp_path):
    bundle, checkpoint = compiled("qwen2_5_vl", tmp_path, max_input_len=16, max_image_tokens=12)
    with pytest.raises(
        CapacityError, match=r"a prompt with an image has \d+ tokens and 4 new ones, .* takes 16 in one call"
    ):
        verify_bundle(bundle, checkpoint, new_tokens=4)


def test_another_tower(qwen):
    """The language part may be right and the tower wrong; the report says which."""
    bundle, checkpoint = qwen
    model = load_model(checkpoint, Precision.FP32)
    weight = model.model.visual.blocks[1].mlp.down_proj.weight
    weight.data = weight.data * 1.5
    report = verify_bundle(bundle, model, new_tokens=4)
    assert (report.passed, report.features_passed) == (False, False)
    assert "vision tower   image_features of 2 images" in report.render()
    assert "NO MATCH" in report.render()
    words = {e.claim: (e.word, e.detail.partition(" Hugging")[0]) for e in report.evidence()}
    assert words["vision network"] == ("failed", "does NOT match")
    assert report.preprocessing is None, "a model in memory has no processor"


def test_another_preprocessing(qwen, tmp_path):
    bundle, checkpoint = qwen
    other = shutil.copytree(checkpoint, tmp_path / "other")
    for file in other.glob("*processor_config.json"):
        settings = json.loads(file.read_text())
        images = settings.get("image_processor", settings)
        images["image_mean"] = [0.2, 0.2, 0.2]
        file.write_text(json.dumps(settings))
    report = verify_bundle(bundle, other, new_tokens=4)
    assert (report.logits_passed, report.features_passed, report.preprocessing_passed) == (True, True, False)
    assert "NO MATCH" in report.render()


def test_a_number_that_is_none(qwen):
    """The largest of numbers with a NaN among them may be any; every row counts."""
    from dataclasses import replace

    bundle, checkpoint = qwen
    report = verify_bundle(bundle, checkpoint, new_tokens=2)
    rows = (*report.rows[:-1], replace(report.rows[-1], relative_error=float("nan")))
    assert not replace(report, rows=rows).passed
    assert np.isfinite(report.relative_error)


@pytest.mark.parametrize("content", ["Go?", [{"type": "image", "image": "x.png"}, {"type": "text", "text": "Go?"}]])
def test_chats_of_the_yardstick_are_the_processors_own(content):
    """A wrong template in the bundle would not show if both sides had it."""
    processor = processor_of(road_scenes.CHECKPOINT)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    ours = ChatTemplate(processor.chat_template, processor.tokenizer.special_tokens_map)
    assert chat_text(processor, messages) == render_chat(ours, messages, has_processor=True).text
    processor.chat_template = (
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }};{% endif %}{% endfor %}"
        "{% endfor %}"
    )
    assert chat_text(processor, messages) == "Be brief.;Go?;"
    processor.chat_template = "{{ messages | length }}"
    with pytest.raises(InvalidInputError, match="does not show every message"):
        chat_text(processor, messages)


def test_a_chat_template_that_refuses_is_quoted():
    class Processor:
        def apply_chat_template(self, *_, **__):
            raise ValueError("roles must alternate")

    with pytest.raises(InvalidInputError, match=r"does not show every message \(roles must alternate\)"):
        chat_text(Processor(), [{"role": "user", "content": "hello"}])


def test_another_chat_template_in_the_bundle(tmp_path):
    """``eval --model`` gives PyTorch the chat by the checkpoint's template, so the two sides differ."""
    bundle = tmp_path / "road.ttedge"
    limits = {"max_batch": 2, "max_input_len": 192, "max_seq_len": 256, "max_image_tokens": 144}
    compile_checkpoint(str(road_scenes.CHECKPOINT), bundle, CompileConfig.of(**limits), EngineTarget(), progress=False)
    data = road_scenes.write_jsonl(tmp_path, road_scenes.examples("test", 2, 0))
    ask = read_questions(data, 1)[0].ask
    checkpoint = Checkpoint.open(road_scenes.CHECKPOINT)
    with LLM.load(bundle) as llm:
        theirs = TheirTexts(None, checkpoint, llm)
        before = theirs.inputs(ask)["input_ids"].tolist()
        assert before == [list(llm.encode(ask.prompt_of(llm)).ids)]
        llm.chat_template = ChatTemplate(
            "x " + processor_of(checkpoint).chat_template, llm.chat_template.special_tokens
        )
        assert theirs.inputs(ask)["input_ids"].tolist() == before
        assert before != [list(llm.encode(ask.prompt_of(llm)).ids)]


def test_sizes_of_images_are_the_processors_too(qwen, tmp_path):
    """``eval --preset`` asks for sizes in pixels; the checkpoint's own processor is given the same."""
    bundle, checkpoint = qwen
    Image.fromarray(photo(57, 93)).save(tmp_path / "a.png")
    counts = []
    with LLM.load(bundle.path) as llm:
        theirs = TheirTexts(None, Checkpoint.open(checkpoint), llm)
        for options in (
            {},
            {"min_pixels": 80 * 80, "max_pixels": 95 * 95},
            {"min_pixels": 1, "max_pixels": 60 * 60},
            {"resized_height": 90, "resized_width": 60},
        ):
            image = SizedImage(str(tmp_path / "a.png"), ImageOptions(**options))
            parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
            ask = Ask(messages=({"role": "user", "content": parts},), images=(image,))
            ids = theirs.inputs(ask)["input_ids"][0].tolist()
            assert ids == list(llm.encode(ask.prompt_of(llm)).ids)
            counts.append(len(ids))
        assert len(set(counts)) > 1
        ask = Ask(messages=ask.messages, images=(SizedImage(str(tmp_path / "a.png"), ImageOptions(low_detail=True)),))
        with pytest.raises(InvalidInputError, match="an image has detail, which is not compared with PyTorch"):
            theirs.inputs(ask)
