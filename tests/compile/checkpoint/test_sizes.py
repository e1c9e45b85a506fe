"""Malformed values of a checkpoint's settings: the error names the setting, its value, and the next step."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import DonutImageProcessor, WhisperFeatureExtractor

from tests.models.speech import speech_model
from tests.models.tiny_seq2seq import save_seq2seq, tiny_page_reader, tiny_seq2seq
from tt_edge.cli import main
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.model import explained
from tt_edge.compile.checkpoint.sizes import check_sizes
from tt_edge.compile.vision.features import _chosen
from tt_edge.errors import InvalidInputError


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    whisper = save_seq2seq(speech_model(), folder / "whisper")
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(whisper)
    donut = save_seq2seq(tiny_page_reader("donut"), folder / "donut")
    DonutImageProcessor(size={"height": 32, "width": 64}).save_pretrained(donut)
    return {
        "t5": save_seq2seq(tiny_seq2seq("t5"), folder / "t5"),
        "whisper": whisper,
        "donut": donut,
    }


CONFIG, START, INPUT = "config.json", "generation_config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("kind", "file", "name", "value", "said"),
    [
        ("t5", CONFIG, "d_model", -32, "d_model of config.json is -32, not at least 1"),
        ("t5", CONFIG, "num_heads", 0, "num_heads of config.json is 0, not at least 1"),
        ("t5", CONFIG, "num_layers", -1, "num_layers of config.json is -1, not a number of 0 or more"),
        ("t5", CONFIG, "relative_attention_max_distance", -3, "relative_attention_max_distance of config.json is -3"),
        ("t5", CONFIG, "d_model", "32", "does not load: Validation error for field 'd_model': TypeError"),
        ("t5", CONFIG, "model_type", {}, "model_type of config.json is {}, not a name"),
        ("t5", CONFIG, "model_type", [1], "model_type of config.json is [1], not a name"),
        ("t5", CONFIG, "dense_act_fn", "zelu", "dense_act_fn of config.json is 'zelu', which transformers does not"),
        (
            "t5",
            START,
            "decoder_start_token_id",
            "x",
            "decoder_start_token_id of generation_config.json is 'x', not a tok",
        ),
        ("t5", START, "decoder_start_token_id", -1, "generation_config.json has decoder_start_token_id -1; correct it"),
        ("t5", START, "eos_token_id", [1.5], "eos_token_id of generation_config.json is [1.5], not a token id"),
        ("t5", START, "pad_token_id", [], "pad_token_id of generation_config.json is [], not a token id"),
        ("donut", CONFIG, "encoder.image_size", [-32, 64], "encoder.image_size of config.json is [-32, 64], not"),
        ("donut", CONFIG, "encoder.image_size", [32], "encoder.image_size of config.json is [32], not an integer"),
        ("donut", CONFIG, "encoder.image_size", [32, 10**7], "is [32, 10000000], not an integer from 1 to 16384, or"),
        ("donut", CONFIG, "encoder.patch_size", 0, "encoder.patch_size of config.json is 0, not at least 1"),
        (
            "whisper",
            CONFIG,
            "num_mel_bins",
            "16",
            "does not load: Validation error for field 'num_mel_bins': TypeError",
        ),
        ("whisper", CONFIG, "max_target_positions", -1, "max_target_positions of config.json is -1, not a number"),
        ("whisper", START, "lang_to_id", [], "generation_config.json has lang_to_id []; correct it, or"),
        (
            "whisper",
            START,
            "lang_to_id",
            {"<|en|>": 1000},
            "generation_config.json has the token 1000 in lang_to_id, and",
        ),
        ("whisper", START, "task_to_id", 3, "generation_config.json has task_to_id 3; correct it, or"),
        (
            "whisper",
            START,
            "no_timestamps_token_id",
            "x",
            "generation_config.json has no_timestamps_token_id 'x'; corr",
        ),
        ("whisper", START, "prev_sot_token_id", 1000, "generation_config.json has the token 1000 in prev_sot_token_id"),
        (
            "whisper",
            START,
            "max_initial_timestamp_index",
            -1,
            "generation_config.json has max_initial_timestamp_index -1",
        ),
        ("whisper", START, "forced_decoder_ids", "x", "generation_config.json has forced_decoder_ids 'x'; correct it"),
        (
            "whisper",
            START,
            "decoder_start_token_id",
            1000,
            "has the token 1000 in decoder_start_token_id, and the model",
        ),
        ("whisper", INPUT, "n_fft", "x", "preprocessor_config.json has n_fft 'x'; correct it, or download the"),
        (
            "donut",
            INPUT,
            "size",
            {"height": 64, "width": 64},
            "makes pages of (64, 64), and the encoder takes (32, 64)",
        ),
        (
            "donut",
            INPUT,
            "size",
            {"height": "32", "width": 64},
            "preprocessor_config.json is malformed (size.height is '32'",
        ),
        (
            "donut",
            INPUT,
            "image_mean",
            None,
            "preprocessor_config.json is malformed (image_mean is None, not three numb",
        ),
        (
            "donut",
            INPUT,
            "image_std",
            [0, 0, 0],
            "preprocessor_config.json is malformed (image_std is [0, 0, 0], not thr",
        ),
        (
            "donut",
            INPUT,
            "rescale_factor",
            "x",
            "preprocessor_config.json is malformed (rescale_factor is 'x', not a num",
        ),
        ("donut", INPUT, "resample", 99, "preprocessor_config.json is malformed (resample is 99, not an integer from"),
        ("donut", INPUT, "do_pad", None, "preprocessor_config.json has do_pad off, which is not supported; correct it"),
    ],
)
def test_named(checkpoints, tmp_path, capsys, kind, file, name, value, said):
    folder = shutil.copytree(checkpoints[kind], tmp_path / "checkpoint")
    settings = json.loads((folder / file).read_text())
    *path, last = name.split(".")
    at = settings
    for part in path:
        at = at[part]
    at[last] = value
    (folder / file).write_text(json.dumps(settings))
    assert main(["compile", str(folder), "-o", str(tmp_path / "out"), "--max-seq-len", "32"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "named"), [(0, "rope.rope_type"), (True, "rope.rope_type"), ("odd", "act")])
def test_a_key_that_transformers_lacks_is_told_from_other_values(tmp_path, value, named):
    """0 is not false, and what chooses something is more likely to be missing than a size."""
    settings = {"bias": value == 0, "is_decoder": False, "pad_token_id": 0, "tied": True, "rope": {"rope_type": value}}
    (tmp_path / "config.json").write_text(json.dumps({"act": value, **settings} if value == "odd" else settings))
    checkpoint, said = Checkpoint.open(tmp_path), f"load: {named} of config.json is {value!r}, which transformers"
    with pytest.raises(InvalidInputError, match=said), explained(checkpoint):
        raise KeyError(value)


def test_what_is_no_size():
    """Negative numbers that mean something, and sizes that are given elsewhere."""
    fine = {"vision_feature_layer": -2, "pad_token_id": -1, "num_key_value_heads": None, "text_config": {"head_dim": 8}}
    check_sizes("x", {**fine, "image_token_id": -200})  # no vision tower
    with pytest.raises(InvalidInputError, match=r"image_token_id of config.json is -200, not a token id"):
        check_sizes("x", {**fine, "image_token_id": -200, "vision_config": {}})


def test_a_layer_that_the_tower_has_not():
    class Tower:
        hidden_states = (torch.zeros(1, 2, 3),) * 3

        def __call__(self, *_, **__):
            return self

    assert _chosen(Tower(), [-2, 1], torch.zeros(1)).shape == (1, 2, 6)
    with pytest.raises(
        InvalidInputError, match=r"vision_feature_layer of config.json is 99, and the vision tower has 3 h"
    ):
        _chosen(Tower(), 99, torch.zeros(1))
