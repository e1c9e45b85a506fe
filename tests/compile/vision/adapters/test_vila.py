"""VILA and NVILA: checkpoints in their layout, beside NVIDIA's definition as ``vila_definition`` has it."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest
import torch

from tests.compile.vision.adapters.vila_definition import SIDE, Vila, write_vila
from tests.runtime.multimodal.images.sample_images import photo
from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.bundle import Bundle
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.vision.adapters.vila import Projector
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import InvalidInputError, TTEdgeError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.multimodal.sources import Video, VideoFile

NEW = 6
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=96, max_seq_len=160, max_image_tokens=96)
#: NVILA-Lite, whose vocabulary is larger than its tokenizer's, and VILA 1.5, whose ends before the images' tokens.
KINDS = {
    "nvila": {"vocabulary": 300},
    "vila": {"language": "llama", "vocabulary": 261, "projector": "mlp_downsample", "image_aspect_ratio": "resize"},
}
PHOTOS = [photo(SIDE + 20, 3 * SIDE, 1), photo(70, 65, 2), photo(150, 50, 3)]


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_vila(folder / "checkpoint", num_video_frames=4, **KINDS[request.param])
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", LIMITS, EngineTarget())
    with LLM.load(folder / "out.ttedge", "reference") as llm:
        yield request.param, llm, Vila(folder / "checkpoint"), folder


def asked(vila, prompt, images):
    """The definition's ids, with as many image tokens as features, its pixels, and its answer."""
    ids, pixels = vila.prepare(prompt, images)
    rows = 0 if pixels is None else vila.features(pixels).shape[1]
    expanded = [each for own in ids for each in [own] * (rows if own == vila.image else 1)]
    return expanded, pixels, vila.answer(ids, pixels, NEW)


def test_answers(both):
    """One image, which may have tiles, several, which have none, and no image."""
    _, llm, vila, _ = both
    prompts = [(f"<image>What is {n}?", [photo]) for n, photo in enumerate(PHOTOS)]
    prompts += [("A: <image> B: <image>\nWhich?", PHOTOS[:2]), ("Hello.", [])]
    config = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)
    found = llm.generate([text for text, _ in prompts], config, images=[images for _, images in prompts])
    for (text, images), completion in zip(prompts, found, strict=True):
        ids, _, answer = asked(vila, text, images)
        assert list(completion.input_ids) == ids
        assert list(completion.new_token_ids) == answer


def test_pixels(both):
    _, llm, vila, _ = both
    for given in ([PHOTOS[0]], [PHOTOS[2]], PHOTOS[:2]):
        _, processed = llm.vision.processor.tokenize(
            llm.tokenizer, "<image>" * len(given), given, add_special_tokens=True
        )
        want = vila.prepare("<image>" * len(given), given)[1]
        np.testing.assert_allclose(np.concatenate([image.pixels for image in processed]), want, atol=1e-6)


def test_tiles(both):
    """An image of its own gets tiles and a small copy; where the checkpoint says ``resize``, and beside another, it is one tile."""
    kind, llm, _, _ = both
    tokens = {
        count: llm.vision.processor.tokenize(llm.tokenizer, "<image>" * count, PHOTOS[:count], add_special_tokens=True)[
            0
        ]
        for count in (1, 2)
    }
    image = llm.vision.processor.token_ids[0]
    runs = {count: [len(list(run)) for token, run in groupby(ids) if token == image] for count, ids in tokens.items()}
    assert runs == ({1: [10, 10, 10], 2: [20]} if kind == "nvila" else {1: [18], 2: [36]})


def test_features_are_the_definitions(both):
    _, _, vila, folder = both
    model, pixels = load_model(folder / "checkpoint", Precision.FP32), vila.prepare("<image>", PHOTOS[:1])[1]
    with torch.no_grad():
        torch.testing.assert_close(model.get_image_features(pixels).pooler_output, vila.features(pixels))
    assert model.config.text_config.vocab_size == len(vila.tokenizer)


def test_a_chat(both):
    """Parts of a message become the text that the template takes; an answer ends where the template ends a message."""
    kind, llm, vila, folder = both
    parts = [{"type": "image", "image": PHOTOS[0]}, {"type": "text", "text": "What is it? "}]
    completion = llm.chat([{"role": "user", "content": parts}], GenerationConfig(max_new_tokens=NEW, ignore_eos=True))
    text = vila.tokenizer.apply_chat_template(
        [{"role": "user", "content": "<image>What is it?"}], add_generation_prompt=True, tokenize=False
    )
    ids, _, answer = asked(vila, text, PHOTOS[:1])
    assert list(completion.input_ids) == ids
    assert list(completion.new_token_ids) == answer
    ends = [vila.tokenizer.eos_token_id, vila.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    settings = json.loads((folder / "out.ttedge" / "generation_config.json").read_text())
    assert sorted(settings["eos_token_id"]) == sorted(ends)
    if kind == "nvila":
        with pytest.raises(InvalidInputError, match="an image ends a message; put text behind it"):
            llm.chat([{"role": "user", "content": parts[::-1]}])


def test_videos(both, tmp_path):
    """Each frame as an image beside others; of a file, and of one with fewer frames than are taken. In a chat, too."""
    _, llm, vila, _ = both
    film = write_film(tmp_path / "film.mp4", [photo(40, 64, seed=i) for i in range(9)], rate=20)
    short = write_film(tmp_path / "short.mp4", [photo(40, 64, seed=i) for i in range(3)], rate=5)
    frames = [photo(40, 60, seed=i) for i in range(3)]
    config = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)
    parts = [{"type": "video", "video": film}, {"type": "text", "text": "What?"}]
    chat = vila.tokenizer.apply_chat_template(
        [{"role": "user", "content": "<vila/video>What?"}], add_generation_prompt=True, tokenize=False
    )
    for prompt, video, taken in (
        ("<vila/video>What?", Video(frames), frames),
        ("See <vila/video>", VideoFile(film), vila.film(film)),
        ("See <vila/video>", VideoFile(short), vila.film(short)),
        (chat, None, vila.film(film)),
    ):
        [found] = (
            [llm.chat([{"role": "user", "content": parts}], config)]
            if video is None
            else llm.generate([prompt], config, images=[[video]])
        )
        ids, pixels = vila.tokenizer(prompt).input_ids, vila.prepare("<image>" * len(taken), taken)[1]
        rows = len(taken) * vila.features(pixels).shape[1]
        assert list(found.input_ids) == [each for own in ids for each in [own] * (rows if own == vila.video else 1)]
        assert list(found.new_token_ids) == vila.answer(ids, pixels, NEW)
    with pytest.raises(InvalidInputError, match="fps is 2, and this model takes a number of frames; give num_frames"):
        llm.generate(["<vila/video>"], config, images=[[VideoFile(film, fps=2.0)]])


def test_an_image_beside_a_video(both):
    """It has tiles, as without the video."""
    _, llm, _, _ = both
    tokens = llm.vision.processor.preprocess(PHOTOS[0]).tokens
    _, found = llm.vision.processor.tokenize(
        llm.tokenizer, "<vila/video><image>?", [Video([photo(40, 60)]), PHOTOS[0]], add_special_tokens=True
    )
    assert [image.tokens for image in found] == [found[0].tokens, tokens]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"video_encoder": {"_target_": "llava.TSPVideoEncoder"}}, "with the video_encoder llava.TSPVideoEncoder"),
        ({"video_encoder": {"end_tokens": None}}, "with None and None around frames, which images have not"),
        ({"video_max_tiles": 4}, "with video_max_tiles 4"),
    ],
)
def test_videos_that_are_not_followed(settings, message, tmp_path):
    """Images are, and the model says why it takes no videos."""
    files = dict(Checkpoint.open(write_vila(tmp_path / "vila", **settings)).processor_files())
    assert message in json.loads(files["video_preprocessor_config.json"])["video_processor_type"]


def test_verify(both):
    *_, folder = both
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=4)
    assert report.passed, report.render()
    assert report.preprocessing == "its processor is code of the checkpoint"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_aspect_ratio": "dynamic_s2"},
            r"image_aspect_ratio 'dynamic_s2' is not supported \(only None, 'resize', 'dyn",
        ),
        ({"s2": True}, "VILA with s2 True is not supported"),
        ({"dynamic_s2": True}, "VILA with dynamic_s2 True is not supported"),
        ({"ps3": True}, "VILA with ps3 True is not supported"),
        ({"mm_vision_select_feature": "patch"}, "VILA with mm_vision_select_feature 'patch' is not supported"),
        ({"mm_vision_select_layer": 9}, "mm_vision_select_layer of config.json is 9, and the tower has 3 layers"),
        ({"chat_template": "mistral"}, "VILA with chat_template 'mistral' is not supported"),
        ({"image_encoder": {"_target_": "llava.TSP"}}, "VILA with the image_encoder 'llava.TSP' is not supported"),
    ],
)
def test_what_is_not_followed(settings, message, tmp_path):
    write_vila(tmp_path / "vila", **settings)
    with pytest.raises(TTEdgeError, match=message):
        load_model(tmp_path / "vila", Precision.FP32)


def test_parts_that_are_not_followed(tmp_path):
    def edit(part, **changed):
        folder = tmp_path / part
        file = write_vila(folder) / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
        return folder

    kinds = {
        "vision_tower": ({"model_type": "intern_vit"}, "the vision tower 'intern_vit' is not supported; SigLIP's is"),
        "mm_projector": (
            {"mm_projector_type": "mlp_downsample_3x3_s2"},
            "mm_projector_type 'mlp_downsample_3x3_s2' is not",
        ),
        "llm": ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "its llm is quantized"),
    }
    for part, (changed, message) in kinds.items():
        with pytest.raises(UnsupportedModelError, match=message):
            load_model(edit(part, **changed), Precision.FP32)


def test_damaged_folders(tmp_path):
    folder = write_vila(tmp_path / "vila")
    (folder / "mm_projector" / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match="has no safetensors in mm_projector; download it again"):
        load_model(folder, Precision.FP32)
    (folder / "llm" / "config.json").unlink()
    with pytest.raises(InvalidInputError, match=r"is VILA's and has no llm/config\.json; download it again"):
        Checkpoint.open(folder)


def test_the_template_by_its_name(tmp_path):
    """``chat_template`` ``qwen2`` of config.json, in place of the tokenizer's."""
    tokenizer = Checkpoint.open(write_vila(tmp_path / "vila", chat_template="qwen2")).tokenizer
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Hi "}]}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n<image> Hi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("kind", "sizes"), [("linear", [(12, 8)]), ("mlp1x_gelu", [(12, 8)]), ("mlp3x_gelu", [(12, 8), (8, 8), (8, 8)])]
)
def test_projectors_that_merge_nothing(kind, sizes):
    """Linear layers with GELU between them, by the names of NVIDIA's checkpoints; ``linear`` is one without a number."""
    torch.manual_seed(0)
    projector, x = Projector(kind, 12, 8), torch.randn(2, 9, 12)
    weights = {name.removeprefix("layers."): value for name, value in projector.state_dict().items()}
    names = [""] if kind == "linear" else [f"{2 * number}." for number in range(len(sizes))]
    assert weights.keys() == {f"{name}{each}" for name in names for each in ("weight", "bias")}
    want = x
    for number, (name, (wide, hidden)) in enumerate(zip(names, sizes, strict=True)):
        assert weights[f"{name}weight"].shape == (hidden, wide)
        want = want if number == 0 else torch.nn.functional.gelu(want)
        want = want @ weights[f"{name}weight"].T + weights[f"{name}bias"]
    torch.testing.assert_close(projector(x), want)


def test_an_unknown_projector_is_refused():
    with pytest.raises(UnsupportedModelError, match="mm_projector_type 'mlp_downsample_4x4' is not followed"):
        Projector("mlp_downsample_4x4", 12, 8)
