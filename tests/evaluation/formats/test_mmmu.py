"""MMMU: VLMEvalKit's prompt, its rules for finding the letter, image lists, and refusals with file and row."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from tests.evaluation.data_files import mmmu_rows, write_mmmu
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.evaluation.formats.mmmu import MMMU, PRESETS, letter_of
from tt_edge.evaluation.requests import Answer
from tt_edge.runtime.multimodal.images import ImageOptions

OPTIONS = {"A": "Red", "B": "Green light", "C": "Blue", "D": "Yellow"}


def model(patch_size=14, max_image_tokens=6620, max_input_len=7168, max_seq_len=8192):
    processor = SimpleNamespace(image_processor=SimpleNamespace(patch_size=patch_size, merge_size=2))
    limits = {"max_image_tokens": max_image_tokens, "max_input_len": max_input_len, "max_seq_len": max_seq_len}
    session = SimpleNamespace(contract=SimpleNamespace(**limits))
    return SimpleNamespace(llm=SimpleNamespace(vision=SimpleNamespace(processor=processor), session=session))


def test_prompts(tmp_path):
    items = MMMU(write_mmmu(tmp_path / "a.tsv")).items(model())
    assert [item.id for item in items] == ["1", "2", "3", "4"], "a row without an image is left out"
    contents = [item.ask.messages[0]["content"] for item in items]
    asked = "Please select the correct answer from the options above. \n"
    assert contents[0] == [
        {"type": "text", "text": "Question: What colour is the light in "},
        {"type": "image"},
        {"type": "text", "text": f"?\nOptions:\nA. Red\nB. Green\nC. Blue\nD. Yellow\n{asked}"},
    ]
    assert [part["type"] for part in contents[1]] == ["text", "image", "text", "image", "text"]
    assert contents[2] == [{"type": "image"}, {"type": "text", "text": "Question: Describe the picture.\n"}]
    assert contents[3][1]["text"].startswith("Hint: Look up.\nQuestion: Is it day?\nOptions:\nA. Yes\n")
    rows = mmmu_rows()
    assert items[0].ask.images == (base64.b64decode(rows[0]["image"]),)
    first, second = (base64.b64decode(text) for text in rows[1]["image"].strip("[]'").split("', '"))
    assert items[1].ask.images == (second, first), "in the order of their places"
    assert items[3].ask.images == items[0].ask.images, "an index names another row's image"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("The answer is B.", "B"),
        ("**D**", "D"),
        ("B because the others are wrong in this scene of the street", "Z"),  # the letter is not near the end
        ("The correct answer is **B**. Here is why: it is written on the sign of the street.", "B"),
        ("answer is c, as anyone who looks at the picture of the street can see", "C"),
        ("A or B", "Z"),
        ("E", "Z"),
        ("Z", "Z"),
        ("it is green light", "B"),
        ("red", "A"),
        ("red or blue", "Z"),
        ("It is red, " + "as you see, " * 20, "Z"),  # much longer than the options
        ("I can't process this file. B", "Z"),
        ("Failed to obtain answer via API", "Z"),
        ("", "Z"),
    ],
)
def test_letters(answer, letter):
    assert letter_of(answer, OPTIONS) == letter


def test_open_questions_become_two_options(tmp_path):
    task = MMMU(write_mmmu(tmp_path / "a.tsv"))
    item = task.items(model())[2]
    assert dict(item.options) == {"A": "Day", "B": "Other Answers"}
    assert task.mark(item, Answer("day, red light"))["accuracy"]
    assert not task.mark(item, Answer("Night."))["accuracy"]


def test_groups(tmp_path):
    task = MMMU(write_mmmu(tmp_path / "a.tsv"))
    items = task.items(model())
    answers = {item.id: Answer(item.answer) for item in items}
    found = task.summary(items, answers | {"1": Answer("B")})
    assert found["accuracy"] == 0.75
    assert found["groups"]["split"]["validation"] == {"asked": 2, "right": 1, "accuracy": 0.5}
    assert list(found["groups"]) == ["split", "l2-category", "category"]
    assert [item.id for item in MMMU(tmp_path / "a.tsv", split="dev", count=1).items(model())] == ["2"]


def test_the_preset(tmp_path):
    items = MMMU(write_mmmu(tmp_path / "a.tsv"), preset="driveos").items(model())
    one, two = (item.ask.images for item in items[:2])
    assert one[0].options == ImageOptions(min_pixels=1280 * 28**2, max_pixels=6620 * 28**2)
    assert {image.options for image in two} == {ImageOptions(min_pixels=1280 * 28**2, max_pixels=3310 * 28**2)}
    assert items[0].generate.max_new_tokens == 8192 - 7168
    for name in ("max_image_tokens", "max_input_len", "max_seq_len"):
        needed = getattr(PRESETS["driveos"], name)
        flag = f"--{name.replace('_', '-')} {needed}"
        with pytest.raises(CapacityError, match=f"{name} of the bundle is {needed - 1}.*compile with {flag}"):
            MMMU(tmp_path / "a.tsv", preset="driveos").items(model(**{name: needed - 1}))
    with pytest.raises(InvalidInputError, match="processor does not take; omit --preset"):
        MMMU(tmp_path / "a.tsv", preset="driveos").items(model(patch_size=0))
    with pytest.raises(InvalidInputError, match="preset 'thor' is unknown; choose one of driveos"):
        MMMU(tmp_path / "a.tsv", preset="thor")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "no base64!" * 10}, r"row 2: image is 'no base64!.*, which is no base64"),
        ({"image": "7"}, r"row 2: image is '7', which is no index of a row with an image"),
        ({"image": "[" + " " * 80 + "]"}, r"row 2: image is .*, a list without images"),
        ({"question": "What is <image 2>?"}, r"row 2: the question names <image 2>, and the row has 1 images"),
        ({"question": ""}, r"row 2 has no question"),
        ({"answer": ""}, r"row 2 has no answer"),
        ({"index": "2"}, r"row 3 has the index 2 of row 2"),
    ],
)
def test_rows_of_another_form(tmp_path, change, message):
    first, *rest = mmmu_rows()
    path = write_mmmu(tmp_path / "a.tsv", [first | change, *rest])
    with pytest.raises(InvalidInputError, match=message) as caught:
        MMMU(path)
    assert "\n" not in str(caught.value)


def test_files_of_another_form(tmp_path):
    path = tmp_path / "a.tsv"
    with pytest.raises(InvalidInputError, match="cannot be read"):
        MMMU(path)
    path.write_text("index\timage\tquestion\n1\tx\ty\n")
    with pytest.raises(InvalidInputError, match="row 1 has no column answer, but index, image, question"):
        MMMU(path)
    path.write_text("index\timage\tquestion\tanswer\n1\tx\ty\n")
    with pytest.raises(InvalidInputError, match="row 2 has 3 columns, and the header 4"):
        MMMU(path)
    write_mmmu(path)
    with pytest.raises(InvalidInputError, match="has no questions of split test with an image"):
        MMMU(path, split="test")
    with pytest.raises(InvalidInputError, match="the bundle takes none; compile a vision-language model"):
        MMMU(path).items(SimpleNamespace(llm=SimpleNamespace(vision=None)))
