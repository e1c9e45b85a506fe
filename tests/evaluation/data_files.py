"""Small data sets of our own text in the true formats of MMLU, MMMU and GSM8K."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

from examples.driving_qa.questions import examples
from examples.road_scenes import questions as road_scenes

SUBJECTS = {"college_physics": 6, "jurisprudence": 4, "marketing": 5}


def choice_rows(count: int, first: int = 0) -> list[list[str]]:
    """Sums with four options, one of which is right."""
    rows = []
    for number in range(first, first + count):
        total, place = 7 + number, number % 4
        options = [str(total + other - place) for other in range(4)]
        rows.append([f'A car passes {number} signs, then "seven, more".\nHow many?', *options, "ABCD"[place]])
    return rows


def write_mmlu(folder: Path, subjects: dict[str, int] | None = None) -> Path:
    """MMLU's folder: five examples, two rows of ``val``, and some of ``test`` for each subject."""
    for split, counts in {
        "dev": dict.fromkeys(subjects or SUBJECTS, 5),
        "val": dict.fromkeys(subjects or SUBJECTS, 2),
        "test": subjects or SUBJECTS,
    }.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for place, (subject, count) in enumerate(counts.items()):
            with (folder / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(choice_rows(count, 100 * place + len(split)))
    return folder


def png(image: object) -> str:
    """An image as base64 of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")  # type: ignore[attr-defined]
    return base64.b64encode(file.getvalue()).decode()


MMMU_COLUMNS = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split"]


def mmmu_rows() -> list[dict[str, str]]:
    """Multiple choice with one image, with two, an open question, and one that shares another's image."""
    scenes = road_scenes.examples("test", 40, 0)
    one, two = (next(s for s in scenes if len(s.pictures) == count) for count in (1, 2))
    image = png(one.pictures[0].image())
    both = str([png(picture.image()) for picture in two.pictures])
    light = {"category": "Traffic", "l2-category": "Roads", "split": "validation"}
    cars = {"category": "Cars", "l2-category": "Roads", "split": "dev"}
    options = {"A": "Red", "B": "Green", "C": "Blue", "D": "Yellow"}
    return [
        {"index": "1", "image": image, "question": "What colour is the light in <image 1>?", **options, "answer": "A", **light},
        {"index": "2", "image": both, "question": "<image 2> or <image 1>?", "A": "First", "B": "Second", "answer": "B", **cars},
        {"index": "3", "image": image, "question": "Describe the picture.", "answer": "Day", **light},
        {"index": "4", "image": "1", "question": "Is it day?", "hint": "Look up.", "A": "Yes", "B": "No", "answer": "A", **cars},
        {"index": "5", "image": "", "question": "No image?", **options, "answer": "A", **cars},
    ]  # fmt: skip


def write_mmmu(path: Path, rows: list[dict[str, str]] | None = None) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, MMMU_COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(mmmu_rows() if rows is None else rows)
    return path


def write_gsm8k(path: Path, count: int = 6, first: int = 0) -> Path:
    rows = [
        {
            "question": f"What is {n + 10} plus {n}?",
            "answer": f"{n + 10} and {n} make <<{n + 10}+{n}=>>.\n#### {2 * n + 10:,}",
        }
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_questions(path: Path, count: int, split: str = "test") -> Path:
    rows = [{"messages": e.messages, "answer": e.answer, "kind": e.kind} for e in examples(split, count, 0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_text(path: Path, count: int = 60) -> Path:
    """Sentences of the driving questions."""
    asked = examples("test", count, 0)
    path.write_text("\n".join(f"{e.messages[-1]['content']} {e.answer}" for e in asked) + "\n")
    return path
