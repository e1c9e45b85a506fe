"""run_vlm.py as people run it."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from examples import run_vlm
from examples.road_scenes.evaluate import CHECKPOINT
from examples.tiny_checkpoint import make_checkpoint
from tests.models.vlm_checkpoints import TOKENS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.checkpoint import tokenizer_files

ROAD = ["--model", str(CHECKPOINT)]
PICTURES = CHECKPOINT.parent / "pictures"
NIGHT = str(PICTURES / "night.png")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("run_vlm") / "photo.png"
    Image.fromarray(photo(60, 80)).save(file)
    return str(file)


@pytest.mark.parametrize(
    "backend",
    [
        ["native", "--precision", "FP16"],
        ["sdpa", "--precision", "FP32"],
        ["sdpa", "--cache", "static_v1", "--precision", "FP16"],
    ],
    ids="-".join,
)
def test_the_familiar_page(capsys, backend):
    asked = ["--image_path", str(PICTURES / "red_light.png"), "--num_tokens", "32", "--enable_pytorch_run"]
    assert run_vlm.main([*ROAD, "--backend", *backend, *asked]) == 0
    page = capsys.readouterr().out
    torch_part, trt_part = page.split("========= PyTorch =========")[1].split("========= TensorRT =========")
    assert torch_part.splitlines()[1] == trt_part.splitlines()[1] == "Day, red light, two cars, a cone on the right."
    assert "(evaluated by the reference session)" in trt_part
    assert "PyTorch and TensorRT prompts match: True" in page
    assert "PyTorch and TensorRT outputs match: True" in page


def test_two_pictures(capsys):
    pictures = [word for name in ("clear", "night") for word in ("--image_path", str(PICTURES / f"{name}.png"))]
    asked = ["--prompt", "Which picture is at night, the first or the second?", "--num_tokens", "8"]
    assert run_vlm.main([*ROAD, *pictures, *asked, "--enable_pytorch_run"]) == 0
    assert "PyTorch and TensorRT outputs match: True" in capsys.readouterr().out


@pytest.mark.parametrize("family", TOKENS)
def test_every_family(tmp_path, capsys, family, picture):
    write_checkpoint(family, tmp_path / "tiny")
    model = ["--model", str(tmp_path / "tiny"), "--precision", "FP32"]
    limits = ["--max_seq_len", "192", "--max_image_tokens", "16"]
    asked = ["--prompt", "what is it?", "--image_path", picture, "--num_tokens", "6", "--enable_pytorch_run"]
    bundle = str(tmp_path / "tiny.ttedge")
    assert run_vlm.main([*model, *asked, *limits, "--output", bundle]) == 0
    page = capsys.readouterr().out
    assert "PyTorch and TensorRT prompts match: True" in page
    assert "PyTorch and TensorRT outputs match: True" in page
    sizes = ["--isl", "32", "--num_tokens", "3", "--iterations", "1"]
    assert run_vlm.main([*model, "--from_bundle", bundle, "--benchmark", *sizes, "--enable_pytorch_run"]) == 0
    *_, title, heads, theirs, ours = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"32 input tokens, \d+ of them image tokens, 3 new, median of 1 runs", title)
    assert "vision ms  prefill ms  tokens/s  end to end ms  peak MiB" in heads
    for line, what in ((theirs, "PyTorch"), (ours, "evaluated by the reference session")):
        numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d.,]+", line)[:5]]
        assert all(number >= 0 for number in numbers)
        assert numbers[0] > 0
        assert what in line


def test_a_chat_that_the_bundle_renders_otherwise(tmp_path, capsys, monkeypatch, picture):
    """PyTorch gets the chat by the checkpoint's own processor, so a template that the compile damaged shows."""
    write_checkpoint("internvl", tmp_path / "tiny")
    original = tokenizer_files.tokenizer_files

    def damaged(checkpoint):
        for name, content in original(checkpoint):
            yield name, content.replace(b"[assistant]", b"[model]") if name == "chat_template.jinja" else content

    monkeypatch.setattr(tokenizer_files, "tokenizer_files", damaged)
    asked = ["--prompt", "what is it?", "--image_path", picture, "--num_tokens", "4", "--enable_pytorch_run"]
    assert run_vlm.main(["--model", str(tmp_path / "tiny"), "--precision", "FP32", *asked, "--max_seq_len", "192"]) == 1
    assert "PyTorch and TensorRT prompts match: False" in capsys.readouterr().out


def test_frames_of_a_video(tmp_path, capsys, picture):
    write_checkpoint("qwen2_5_vl", tmp_path / "tiny")
    frames = ["--video_frames", *[picture] * 4, "--fps", "1"]
    settings = ["--precision", "FP32", "--num_tokens", "4", "--enable_pytorch_run"]
    assert run_vlm.main(["--model", str(tmp_path / "tiny"), *frames, *settings]) == 0
    assert "PyTorch and TensorRT outputs match: True" in capsys.readouterr().out


def test_a_bundle_is_kept_and_measured(tmp_path, capsys):
    bundle = str(tmp_path / "kept.ttedge")
    asked = ["--prompt", "Is it day or night?", "--image_path", NIGHT, "--num_tokens", "4"]
    assert run_vlm.main([*ROAD, *asked, "--output", bundle, "--engine", "sm89"]) == 0
    assert "sm89" in capsys.readouterr().out
    sizes = ["--isl", "40", "--image_tokens", "20", "--num_tokens", "3", "--iterations", "2"]
    assert run_vlm.main(["--from_bundle", bundle, "--benchmark", *sizes]) == 0
    assert "40 input tokens, 20 of them image tokens, 3 new, median of 2 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to run; give --model or --from_bundle"),
        ([*ROAD, "--image_path", "nowhere.png"], "image nowhere.png does not exist; give a file"),
        ([*ROAD, "--num_tokens", "0"], "--num_tokens and --isl must be at least 1"),
        (
            [*ROAD, "--video_frames", NIGHT, NIGHT, "--fps", "0"],
            "a video's fps is 0.0; give its frames a second, a number from 0.001 to 1000",
        ),
        ([*ROAD, "--video_frames", __file__], "cannot be read (its format is unknown); give a BMP"),
        ([*ROAD, "--cache", "static_v1"], "--cache is for the sdpa backend, not native"),
        ([*ROAD, "--benchmark", "--isl", "8", "--image_tokens", "8"], "8 input tokens have no room for 8 image tokens"),
        (["--model", "/nowhere/model", "--prompt", "x"], "checkpoint /nowhere/model does not exist"),
    ],
)
def test_bad_input(capsys, arguments, message):
    assert run_vlm.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_frames_of_several_sizes(capsys, picture):
    assert run_vlm.main([*ROAD, "--video_frames", picture, NIGHT]) == 2
    assert "give frames of one size" in capsys.readouterr().err


def test_pictures_larger_than_the_limit(capsys):
    asked = ["--image_path", NIGHT, "--max_image_tokens", "4"]
    assert run_vlm.main([*ROAD, *asked, "--num_tokens", "2"]) == 0
    assert "of 196 x 140 pixels is scaled to 2 image tokens to fit the compiled model" in capsys.readouterr().err
    assert run_vlm.main([*ROAD, *asked, "--exact_images"]) == 1
    assert "more than max_image_tokens 4; give fewer or smaller images" in capsys.readouterr().err


def test_a_language_model(tmp_path, capsys):
    make_checkpoint(tmp_path / "tiny", steps=0)
    assert run_vlm.main(["--model", str(tmp_path / "tiny"), "--image_path", NIGHT]) == 2
    assert "has no image processor, as vision-language models have; give one of these" in capsys.readouterr().err
