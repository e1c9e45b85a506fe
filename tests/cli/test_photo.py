"""A phone's photo, through a bundle compiled with the defaults and with no option for its size, everywhere that takes images."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from PIL import Image

from examples import run_vlm
from tests.models.vlm_checkpoints import write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo as drawn
from tests.runtime.multimodal.videos.video_files import write_film
from tests.server.conftest import serving_llm
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM

#: Image tokens that the photo becomes: 4032 x 3024 turned upright, scaled to the 1,024 of the defaults; 12 tiles and a whole.
TOKENS = {"qwen2_vl": 36 * 27, "internvl": 13 * 4}
#: The image processors' settings in published checkpoints.
SIZES = {
    "qwen2_vl": {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}},
    "internvl": {"max_patches": 12},
}


def as_published(family, folder):
    """Give the tiny checkpoint the limits of images and of the context that published ones have."""
    sizes = SIZES[family]
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        settings = json.loads((folder / name).read_text())
        for part in (settings, settings.get("image_processor", {})):
            if "image_processor_type" in part:
                part.update(sizes)
        (folder / name).write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 32768
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module", params=TOKENS)
def compiled(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo")
    checkpoint, bundle, photo = (
        write_checkpoint(request.param, folder / "tiny"),
        folder / "tiny.ttedge",
        folder / "a.jpg",
    )
    as_published(request.param, checkpoint)
    assert main(["compile", str(checkpoint), "-o", str(bundle)]) == 0
    rows = np.linspace(0, 255, 3024).astype(np.uint8)[:, None, None]
    pixels = np.broadcast_to(rows, (3024, 4032, 3)).copy()
    pixels[:, :2000, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # taken upright: a quarter turn clockwise
    Image.fromarray(pixels).save(photo, exif=exif)
    return request.param, bundle, photo


def test_run(compiled, tt_edge):
    family, bundle, photo = compiled
    done = tt_edge("run", bundle, "--image", photo, "--prompt", "what?", "--max-new-tokens", 3, "--json")
    assert done.status == 0, done.err
    assert ("is scaled to 972 image tokens to fit the compiled model" in done.out) == (family == "qwen2_vl")


def test_run_vlm(compiled, capsys):
    _, bundle, photo = compiled
    assert run_vlm.main(["--from_bundle", str(bundle), "--image_path", str(photo), "--num_tokens", "3"]) == 0
    assert "========= TensorRT =========" in capsys.readouterr().out


def test_a_video(compiled, tt_edge, tmp_path, capfd):
    """A file, on the command line and beside PyTorch."""
    _, bundle, _ = compiled
    film = write_film(tmp_path / "a.mp4", [drawn(56, 84, seed=i) for i in range(12)], rate=4)
    asked = ("run", bundle, "--prompt", "what?", "--max-new-tokens", 3)
    done = tt_edge(*asked, "--video", film, "--video-fps", 2, "--json")
    assert done.status == 0, done.err
    assert tt_edge(*asked, "--video-fps", 2).err.splitlines() == ["tt-edge: error: --video-fps is for --video; omit it"]
    checkpoint = ["--model", str(bundle.parent / "tiny"), "--from_bundle", str(bundle), "--enable_pytorch_run"]
    assert run_vlm.main([*checkpoint, "--video_path", film, "--fps", "2", "--num_tokens", "3"]) == 0
    assert "outputs match: True" in capfd.readouterr().out


def test_chat_and_http(compiled):
    """``LLM.chat`` takes it as a Pillow image, too; HTTP as a data URL. All get the same tokens."""
    family, bundle, photo = compiled
    url = "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()
    question, config = {"type": "text", "text": "what?"}, GenerationConfig(3)
    with LLM.load(bundle) as llm:
        given = [Image.open(photo), str(photo)]
        answers = [
            llm.chat([{"role": "user", "content": [{"type": "image", "image": image}, question]}], config)
            for image in given
        ]
        assert answers[0].new_token_ids == answers[1].new_token_ids
        assert list(answers[0].input_ids).count(llm.vision.processor.token_ids[0]) == TOKENS[family]
    parts = [{"type": "image_url", "image_url": {"url": url}}, question]
    with serving_llm(LLM.load(bundle)) as served:
        [model] = served.client().models.list()
        answer = served.client().chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": parts}], max_tokens=3, temperature=0
        )
    assert answer.usage.prompt_tokens == len(answers[0].input_ids)
    assert answer.choices[0].message.content == answers[0].text
    assert Bundle.open(bundle).manifest.contract.max_image_tokens >= TOKENS[family]
