"""MMLU (Hendrycks et al., arXiv:2009.03300): the folder of CSV files, with the prompt and scoring of its authors' script.

A prompt is the subject, ``shots`` answered questions of ``dev``, and the question; the answer is the letter whose token has the
largest logit behind ``Answer:``. A prompt of more than 2,048 tokens loses its last examples, as in that script. Cells are text
as it stands in the file; the script reads them with pandas, which changes some (``None`` becomes ``nan``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.task import CountTokens, Task, first
from tt_edge.evaluation.requests import Answer, Ask, Item, Score

CHOICES = ("A", "B", "C", "D")
#: Most tokens of a prompt, by the authors' script.
MAX_PROMPT = 2048
COLUMNS = "question, four options and the letter of the answer, without a header"

#: Categories, by their subcategories, by their subjects.
CATEGORIES = {
    "STEM": {
        "physics": "astronomy college_physics conceptual_physics high_school_physics",
        "chemistry": "college_chemistry high_school_chemistry",
        "biology": "college_biology high_school_biology",
        "computer science": "college_computer_science computer_security high_school_computer_science machine_learning",
        "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics high_school_statistics",
        "engineering": "electrical_engineering",
    },
    "humanities": {
        "history": "high_school_european_history high_school_us_history high_school_world_history prehistory",
        "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions",
        "law": "international_law jurisprudence professional_law",
    },
    "social sciences": {
        "politics": "high_school_government_and_politics public_relations security_studies us_foreign_policy",
        "culture": "human_sexuality sociology",
        "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
        "geography": "high_school_geography",
        "psychology": "high_school_psychology professional_psychology",
    },
    "other (business, health, misc.)": {
        "other": "global_facts miscellaneous professional_accounting",
        "business": "business_ethics management marketing",
        "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition professional_medicine "
        "virology",
    },
}
SUBJECTS = {
    subject: (category, subcategory)
    for category, subcategories in CATEGORIES.items()
    for subcategory, subjects in subcategories.items()
    for subject in subjects.split()
}


class MMLU(Task):
    """``folder`` has ``dev`` and ``split`` (``test`` or ``val``), each with a CSV file per subject."""

    name = "mmlu"
    marks = ("accuracy",)

    def __init__(
        self,
        folder: Path,
        count: int | None = None,
        shots: int = 5,
        subjects: tuple[str, ...] = (),
        split: str = "test",
    ) -> None:
        if not shots >= 0:
            raise InvalidInputError(f"--shots is {shots}; give 0 or more")
        if split == "dev":
            raise InvalidInputError("--split is dev, whose questions are the examples of prompts; give test or val")
        suffix = f"_{split}.csv"
        found = sorted(path.name.removesuffix(suffix) for path in (folder / split).glob(f"*{suffix}"))
        if not found:
            raise InvalidInputError(
                f"{folder} has no {split}/*{suffix}; give the folder of MMLU's CSV files, which has dev, val and test"
            )
        for subject in subjects or found:
            if subject not in found:
                raise InvalidInputError(f"subject {subject!r} is not in {folder / split}; it has {', '.join(found)}")
            if subject not in SUBJECTS:
                raise InvalidInputError(
                    f"{folder / split / (subject + suffix)} is no subject of MMLU; rename it, or omit it with --subject"
                )
        self.subjects = [subject for subject in found if not subjects or subject in subjects]
        self._folder, self._split, self._shots, self._count = folder, split, shots, count
        files = [folder / split / f"{subject}{suffix}" for subject in self.subjects]
        files += [folder / "dev" / f"{subject}_dev.csv" for subject in self.subjects if shots]
        super().__init__(files, {"shots": shots, "split": split, "subjects": list(subjects), "count": count})

    def items(self, model: Any) -> list[Item]:
        """Their prompts are as long as ``model``'s tokenizer allows."""

        def count(text: str) -> int:
            return len(model.llm.tokenizer.encode(text))

        return first([item for subject in self.subjects for item in self._of_subject(subject, count)], self._count)

    def _of_subject(self, subject: str, count: CountTokens) -> Iterator[Item]:
        path = self._folder / self._split / f"{subject}_{self._split}.csv"
        category, subcategory = SUBJECTS[subject]
        groups = (("category", category), ("subcategory", subcategory), ("subject", subject))
        examples = []
        if self._shots:
            dev = self._folder / "dev" / f"{subject}_dev.csv"
            examples = [f"{question} {answer}\n\n" for _, question, answer in _rows(dev)][: self._shots]
            if len(examples) < self._shots:
                raise InvalidInputError(f"{dev} has {len(examples)} examples, fewer than {self._shots}; lower --shots")
        # Two blanks: the authors' script begins each word of the subject with one.
        head = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
        for number, question, answer in _rows(path):
            prompt = _fitting(head, examples, question, count)
            yield Item(
                f"{subject}:{number}", f"{path}:{number}", Ask(prompt=prompt), answer, groups,
                score=Score(choices=tuple(f" {letter}" for letter in CHOICES)),
            )  # fmt: skip

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        return {"accuracy": CHOICES[int(np.argmax(answer.choices))] == item.answer}


def _fitting(head: str, examples: list[str], question: str, count: CountTokens) -> str:
    """The prompt with as many of ``examples`` as ``MAX_PROMPT`` tokens allow."""
    for shots in range(len(examples), 0, -1):
        prompt = head + "".join(examples[:shots]) + question
        if count(prompt) <= MAX_PROMPT:
            return prompt
    return head + question


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Row number, question with its options up to ``Answer:``, and letter of the answer."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, cells in enumerate(csv.reader(file, strict=True), 1):
                if len(cells) != len(CHOICES) + 2:
                    raise InvalidInputError(f"{path} row {number} has {len(cells)} columns, not 6: {COLUMNS}")
                question, *options, answer = cells
                if answer not in CHOICES:
                    raise InvalidInputError(
                        f"{path} row {number} has the answer {answer!r}, not A, B, C or D: {COLUMNS}"
                    )
                lines = [f"{letter}. {option}" for letter, option in zip(CHOICES, options, strict=True)]
                yield number, "\n".join([question, *lines, "Answer:"]), answer
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}); give MMLU's CSV files") from error
