"""MMLU: the authors' prompt letter for letter, their categories, and refusals with file and row."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest

from tests.evaluation.data_files import SUBJECTS, write_mmlu
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.mmlu import CATEGORIES, MMLU
from tt_edge.evaluation.formats.mmlu import SUBJECTS as ALL_SUBJECTS
from tt_edge.evaluation.requests import Answer


def model(tokens_per_letter=0.25):
    encode = lambda text: [0] * int(len(text) * tokens_per_letter)  # noqa: E731
    return SimpleNamespace(llm=SimpleNamespace(tokenizer=SimpleNamespace(encode=encode)))


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_the_prompt(tmp_path):
    write_mmlu(tmp_path, {"college_physics": 1})
    write(tmp_path / "dev" / "college_physics_dev.csv", [["One, two?", 1, 2, 3, 4, "B"], ["Next?", 5, 6, 7, 8, "C"]])
    write(tmp_path / "test" / "college_physics_test.csv", [['A "b"\nc?', " x", "y ", "None", "1.0", "D"]])
    (item,) = MMLU(tmp_path, shots=2).items(model())
    assert item.ask.prompt == (
        "The following are multiple choice questions (with answers) about  college physics.\n\n"
        "One, two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "Next?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer: C\n\n"
        'A "b"\nc?\nA.  x\nB. y \nC. None\nD. 1.0\nAnswer:'
    )
    assert item.score.choices == (" A", " B", " C", " D")
    assert item.where == f"{tmp_path}/test/college_physics_test.csv:1"
    assert dict(item.groups) == {"category": "STEM", "subcategory": "physics", "subject": "college_physics"}


def test_marks_and_groups(tmp_path):
    task = MMLU(write_mmlu(tmp_path), shots=0)
    items = task.items(model())
    assert len(items) == sum(SUBJECTS.values())
    right = {item.id: Answer(choices=tuple(float(letter == item.answer) for letter in "ABCD")) for item in items}
    assert task.summary(items, right)["accuracy"] == 1
    always_a = {item.id: Answer(choices=(0.0, -1.0, -1.0, -1.0)) for item in items}
    found = task.summary(items, always_a)
    assert found["right"] == sum(item.answer == "A" for item in items)
    assert {name: group["asked"] for name, group in found["groups"]["category"].items()} == {
        "STEM": 6,
        "humanities": 4,
        "other (business, health, misc.)": 5,
    }
    assert set(found["groups"]["subject"]) == set(SUBJECTS)


def test_subjects_are_those_of_the_paper():
    assert len(ALL_SUBJECTS) == 57
    assert {name: len(subcategories) for name, subcategories in CATEGORIES.items()} == {
        "STEM": 6,
        "humanities": 3,
        "social sciences": 5,
        "other (business, health, misc.)": 3,
    }
    counts = {name: sum(category == name for category, _ in ALL_SUBJECTS.values()) for name in CATEGORIES}
    assert list(counts.values()) == [18, 13, 12, 14]


def test_long_prompts_lose_their_last_examples(tmp_path):
    write_mmlu(tmp_path, {"marketing": 1})
    prompts = [MMLU(tmp_path).items(model(size))[0].ask.prompt for size in (1, 5, 100)]
    assert [prompt.count("Answer:") for prompt in prompts] == [6, 3, 1]
    assert all(prompt.startswith("The following") and prompt.endswith("Answer:") for prompt in prompts)
    assert prompts[0].startswith(prompts[1][: prompts[1].rindex("A car")])


def test_the_choice_of_data(tmp_path):
    write_mmlu(tmp_path)
    assert len(MMLU(tmp_path, split="val").items(model())) == 6
    only = MMLU(tmp_path, subjects=("marketing",), count=3)
    assert [item.id for item in only.items(model())] == ["marketing:1", "marketing:2", "marketing:3"]
    assert only.digest != MMLU(tmp_path).digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [["a", 1, 2, 3, 4, "A"], ["a", 1, 2, 3, "A"]],
            r"marketing_test.csv row 2 has 5 columns, not 6: question, four",
        ),
        ([["a", 1, 2, 3, 4, "E"]], r"marketing_test.csv row 1 has the answer 'E', not A, B, C or D"),
        ([[], []], r"row 1 has 0 columns"),
    ],
)
def test_rows_of_another_form(tmp_path, rows, message):
    write_mmlu(tmp_path)
    write(tmp_path / "test" / "marketing_test.csv", rows)
    with pytest.raises(InvalidInputError, match=message) as caught:
        MMLU(tmp_path).items(model())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 6}, "marketing_dev.csv has 5 examples, fewer than 6; lower --shots"),
        ({"shots": -1}, "--shots is -1; give 0 or more"),
        ({"subjects": ("law",)}, "subject 'law' is not in .*; it has college_physics, jurisprudence, marketing"),
        ({"split": "dev"}, "--split is dev, whose questions are the examples of prompts; give test or val"),
        ({"split": "train"}, r"has no train/\*_train.csv; give the folder of MMLU's CSV files"),
    ],
)
def test_refused(tmp_path, settings, message):
    write_mmlu(tmp_path, None if "subjects" in settings else {"marketing": 1})
    with pytest.raises(InvalidInputError, match=message):
        MMLU(tmp_path, **settings).items(model())


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "cooking_test.csv").write_text("a,1,2,3,4,A\n")
    with pytest.raises(InvalidInputError, match=r"cooking_test.csv is no subject of MMLU; rename it, or omit it"):
        MMLU(tmp_path, shots=0)
    (tmp_path / "test" / "cooking_test.csv").rename(tmp_path / "test" / "anatomy_test.csv")
    with pytest.raises(InvalidInputError, match=r"anatomy_dev.csv cannot be read"):
        MMLU(tmp_path).items(model())
