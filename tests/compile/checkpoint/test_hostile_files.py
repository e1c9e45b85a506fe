"""Checkpoints from elsewhere, by the command line: nesting and sizes that would end in a traceback are one line, exit code 2."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.models.tiny_models import tiny_model
from tests.models.vlm_checkpoints import write_checkpoint
from tt_edge.cli import main

NESTED = {"lists": "[" * 200_000 + "]" * 200_000, "objects": '{"a":' * 200_000 + "1" + "}" * 200_000}
NESTED["a value"] = '{"model_type": "qwen2", "a": ' + NESTED["lists"] + "}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    tiny_model("qwen2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlms")
    return {family: write_checkpoint(family, root / family) for family in ("qwen2_5_vl", "llava", "internvl", "eagle2")}


@pytest.fixture
def refused(tmp_path, capfd):
    """Compile a folder, and compare what it says."""

    def check(folder, *words):
        capfd.readouterr()
        status = main(["compile", str(folder), "-o", str(tmp_path / "out.ttedge"), "--precision", "fp32"])
        out, err = capfd.readouterr()
        assert (status, out) == (2, ""), err
        assert err.count("\n") == 1, err
        assert err.startswith("tt-edge: error: "), err
        assert len(err) < 1000
        assert all(word in err for word in words), err
        assert not (tmp_path / "out.ttedge").exists()

    return check


@pytest.mark.parametrize("content", NESTED.values(), ids=NESTED)
def test_a_nested_configuration(plain, tmp_path, refused, content):
    folder = shutil.copytree(plain, tmp_path / "copy")
    (folder / "config.json").write_text(content)
    refused(folder, f"{folder}/config.json is not valid JSON (it ", "; download the checkpoint again")


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "hf_quant_config.json",
        "quantize_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "chat_template.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ],
)
def test_nesting_of_every_other_file(plain, tmp_path, refused, name):
    folder = shutil.copytree(plain, tmp_path / "copy")
    (folder / name).write_text(NESTED["objects"])
    refused(folder, f"{folder}/{name} is not valid JSON (it is nested deeper than 100 levels); download the checkpoint")


def test_nesting_of_a_tokenizer(with_images, tmp_path, refused):
    folder = shutil.copytree(with_images["llava"], tmp_path / "copy")
    (folder / "tokenizer.json").write_text(NESTED["objects"])
    refused(folder, f"the tokenizer of {folder} does not load (", "give another with --tokenizer")


def test_nesting_of_the_tokenizer_that_names_the_image_token(with_images, tmp_path, refused):
    """Eagle 2's configuration is completed from it."""
    folder = shutil.copytree(with_images["eagle2"], tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    settings["model_type"] = "eagle_chat"
    del settings["image_token_id"]
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(NESTED["objects"])
    refused(folder, "tokenizer", "nest")


def test_a_repeated_key_is_read_as_transformers_reads_it(plain, tmp_path):
    """Published checkpoints have such files."""
    from tt_edge.compile.checkpoint import Checkpoint

    folder = shutil.copytree(plain, tmp_path / "copy")
    (folder / "generation_config.json").write_text('{"top_k": 5, "top_k": 7, "x": NaN}')
    assert Checkpoint.open(folder).generation_settings["top_k"] == 7


SIZES = [
    ("qwen2_5_vl", "patch_size"),
    ("qwen2_5_vl", "spatial_merge_size"),
    ("qwen2_5_vl", "temporal_patch_size"),
    ("qwen2_5_vl", "window_size"),
    ("llava", "patch_size"),
    ("llava", "image_size"),
    ("internvl", "patch_size"),
    ("internvl", "image_size"),
    ("eagle2", "patch_size"),
    ("eagle2", "image_size"),
]


@pytest.mark.parametrize(("family", "name"), SIZES)
def test_sizes_of_the_tower(with_images, tmp_path, refused, family, name):
    folder = shutil.copytree(with_images[family], tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    for value in (0, -1, 10**30, "large", 1.5, None, [0, 0], []):
        settings["vision_config"][name] = value
        (folder / "config.json").write_text(json.dumps(settings))
        refused(
            folder, f"vision_config.{name} of config.json is {value!r}, not an integer", "; correct it, or download"
        )


def test_a_size_that_the_tower_cannot_have(with_images, tmp_path, refused):
    """A number that is one, and with which transformers cannot make the tower."""
    folder = shutil.copytree(with_images["llava"], tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    settings["vision_config"]["num_attention_heads"] = 0
    (folder / "config.json").write_text(json.dumps(settings))
    refused(folder, f"checkpoint {folder}: vision_config.num_attention_heads of config.json is 0, not at least 1")


@pytest.mark.parametrize(
    ("family", "image", "words"),
    [
        ("qwen2_5_vl", {"patch_size": 0}, "patch_size is 0, not an integer from 1"),
        ("qwen2_5_vl", {"merge_size": 0}, "merge_size is 0, not an integer from 1"),
        ("qwen2_5_vl", {"patch_size": "large"}, "patch_size is 'large', not an integer from 1"),
        ("qwen2_5_vl", {"patch_size": 16}, "patch_size 16 and temporal_patch_size 2 make patches of 1536 numbers"),
        ("llava", {"crop_size": {"height": 0, "width": 0}}, "crop_size.height is 0, not an integer from 1"),
        ("internvl", {"size": {"height": 0, "width": 0}}, "size.height is 0, not an integer from 1"),
        ("eagle2", {"size": {"height": -28, "width": 28}}, "size.height is -28, not an integer from 1"),
    ],
    ids=str,
)
def test_settings_of_the_image_processor(with_images, tmp_path, refused, family, image, words):
    folder = shutil.copytree(with_images[family], tmp_path / "copy")
    name = next(n for n in ("preprocessor_config.json", "processor_config.json") if (folder / n).is_file())
    settings = json.loads((folder / name).read_text())
    (settings.get("image_processor") or settings).update(image)
    (folder / name).write_text(json.dumps(settings))
    refused(folder, words, "correct preprocessor_config.json and compile the model again")
