"""The road scenes: correct and repeatable images, training that computes what the model does, and the trained checkpoint."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from examples.road_scenes import evaluate, questions, scene, train
from examples.road_scenes.model import make_model, make_tokenizer

CHECKPOINT = evaluate.CHECKPOINT
trained = pytest.mark.skipif(not (CHECKPOINT / "model.safetensors").is_file(), reason="no trained checkpoint")


def pixels(light="none", cars=0, obstacle="none", side="none", time="day", seed=5):
    made = scene.Scene(light, cars, obstacle, side, time)
    return np.asarray(scene.render(made, (168, 224), seed), np.int32)


def saturated(image, color):
    """Pixels near a lamp's colour."""
    return (np.abs(image - np.array(color)).sum(-1) < 60).sum()


def test_repeats():
    assert (pixels("red", 3, "cone", "left") == pixels("red", 3, "cone", "left")).all()
    assert (pixels("red") != pixels("red", seed=6)).any()
    assert questions.examples("test", 30) == questions.examples("test", 30)


@pytest.mark.parametrize("size", scene.SIZES)
def test_size(size):
    made = scene.render(scene.random_scene(random.Random(1)), size, 1)
    assert (made.height, made.width) == size
    assert made.mode == "RGB"


@pytest.mark.parametrize("light", ["red", "amber", "green"])
def test_lamp_shines(light):
    lit = {name: saturated(pixels(light), color) for name, color in scene._LAMPS.items()}
    assert max(lit, key=lit.get) == light
    assert lit[light] > 20


def test_day_is_brighter_than_night():
    means = [pixels(time=time).mean() for time in ("day", "dusk", "night")]
    assert means == sorted(means, reverse=True)


def test_splits_are_disjoint():
    seeds = [
        {picture.seed for example in questions.examples(split, 200) for picture in example.pictures}
        for split in questions.SPLITS
    ]
    assert not seeds[0] & seeds[1]
    assert not seeds[0] & seeds[2]
    assert not seeds[1] & seeds[2]
    with pytest.raises(ValueError, match="no split 'x'"):
        questions.examples("x", 1)


def test_answers_follow_the_scene():
    seen = scene.Scene("red", 1, "cone", "middle", "dusk")
    assert questions.answer("light", seen) == "Red."
    assert questions.answer("count", seen) == "One."
    assert questions.answer("obstacle", seen) == "A cone."
    assert questions.answer("side", seen) == "In the middle."
    assert questions.answer("action", seen) == "Stop: a cone blocks the road."
    assert questions.answer("describe", seen) == "Dusk, red light, one car, a cone in the middle."
    other = scene.Scene("none", 0, "none", "none", "dusk")
    for seed in range(20):
        question, answer = questions.two_pictures(random.Random(seed), other, seen)
        assert answer == "The second.", question


@pytest.mark.parametrize("size", scene.SIZES[:3])
def test_training_computes_what_the_model_does(size, tmp_path):
    from transformers import AutoProcessor

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(tokenizer)
    train.save(model, tokenizer, tmp_path)
    model.float().eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    rng = random.Random(1)
    pictures = [questions.random_picture(rng, size) for _ in range(2)]
    images = [picture.image() for picture in pictures]
    text = train.conversation(rng, [picture.scene for picture in pictures], 1)
    inputs = processor(text=[text], images=images, return_tensors="pt")
    stacked = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    torch.testing.assert_close(train.patches(stacked).flatten(0, 1), inputs.pixel_values)
    with torch.no_grad():
        expected = model(**inputs).logits
        layout = train.vision_layout(model.model.visual, size)
        found = train.forward(model, stacked, inputs.input_ids, layout, size)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    spoken = inputs.input_ids[train.is_answer(inputs.input_ids, tokenizer)]
    turns = text.split("assistant\n")[1:]
    assert tokenizer.decode(spoken) == "".join(turn.split("\n")[0] for turn in turns)


def test_write_jsonl(tmp_path):
    asked = questions.examples("test", 9)
    rows = [json.loads(line) for line in evaluate.write_jsonl(tmp_path, asked).read_text().splitlines()]
    assert [row["answer"] for row in rows] == [example.answer for example in asked]
    assert [len(row["images"]) for row in rows] == [1, 1, 1, 1, 1, 1, 1, 2, 0]
    for row, example in zip(rows, asked, strict=True):
        content = row["messages"][0]["content"]
        assert [item["type"] for item in content] == ["image"] * len(row["images"]) + ["text"]
        for name, picture in zip(row["images"], example.pictures, strict=True):
            assert (np.asarray(Image.open(tmp_path / name)) == np.asarray(picture.image())).all()


@trained
def test_checkpoint_answers():
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 6_000_000
    model, processor = evaluate.load(CHECKPOINT, torch.float16, "cpu")
    asked = questions.examples("test", 45, seed=1)
    scores = evaluate.count(asked, evaluate.answers(model, processor, asked))
    assert sum(right for right, _ in scores.values()) >= 0.9 * len(asked), evaluate.table(scores)
