"""GSM8K (Cobbe et al., arXiv:2110.14168): JSON lines of ``question`` and ``answer``, whose last line is ``#### 42``.

Prompts, stop strings and the two ways of finding the number are those of lm-eval's task ``gsm8k``, version 3: ``strict`` wants
``#### 42``, ``flexible`` takes the last number. Examples are the first of a file, where lm-eval draws them at random.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tt_edge import strict_json
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.task import Task, first, read_text
from tt_edge.evaluation.requests import Answer, Ask, Generate, Item

STOP = ("Question:", "</s>", "<|im_end|>")
MAX_NEW_TOKENS = 256
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
#: Removed from both numbers, one after the other, before they are compared.
_IGNORED = (r",", r"\$", r"(?s).*#### ", r"\.$")


class GSM8K(Task):
    """``path`` has the questions; ``fewshot`` the examples, needed unless ``shots`` is 0."""

    name = "gsm8k"
    marks = ("strict", "flexible")

    def __init__(
        self,
        path: Path,
        count: int | None = None,
        shots: int = 5,
        fewshot: Path | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        if shots < 0:
            raise InvalidInputError(f"--shots is {shots}; give 0 or more")
        if shots and fewshot is None:
            raise InvalidInputError(
                f"--shots {shots} needs examples; give --fewshot FILE, GSM8K's train.jsonl, or --shots 0"
            )
        most = max_new_tokens or MAX_NEW_TOKENS
        files = [path] if not shots or fewshot is None else [path, fewshot]
        super().__init__(files, {"shots": shots, "max_new_tokens": most, "count": count})
        examples = _rows(fewshot)[:shots] if shots and fewshot is not None else []
        if len(examples) < shots:
            raise InvalidInputError(f"{fewshot} has {len(examples)} examples, fewer than {shots}; lower --shots")
        head = "".join(f"{_prompt(question)} {answer}\n\n" for _, question, answer in examples)
        self._items = [
            Item(
                str(number), f"{path}:{number}", Ask(prompt=head + _prompt(question)), answer, (), Generate(most, STOP)
            )
            for number, question, answer in first(_rows(path), count)
        ]

    def items(self, model: Any) -> list[Item]:
        return self._items

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        text, wanted = answer.text or "", comparable(item.answer)
        strict, numbers = _STRICT.search(text), _FLEXIBLE.findall(text)
        return {
            "strict": strict is not None and comparable(strict[1]) == wanted,
            "flexible": bool(numbers) and comparable(numbers[-1]) == wanted,
        }


def comparable(number: str) -> str:
    """A number, or an answer that ends with one, as it is compared."""
    for pattern in _IGNORED:
        number = re.sub(pattern, "", number)
    return number.lower()


def _prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _rows(path: Path) -> list[tuple[int, str, str]]:
    form = 'JSON lines such as {"question": "…", "answer": "… #### 42"}'
    rows = []
    for number, line in enumerate(read_text(path, form).split("\n"), 1):
        if not line.strip():
            continue
        try:
            data = strict_json.loads(line)
            question, answer = data["question"], data["answer"]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInputError(
                f"{path}:{number} is not a question ({type(error).__name__}: {error}); give {form}"
            ) from error
        if not isinstance(question, str) or not isinstance(answer, str) or "#### " not in answer:
            raise InvalidInputError(
                f"{path}:{number} has the question {question!r:.60} and the answer {answer!r:.60}; give {form}"
            )
        rows.append((number, question, answer))
    if not rows:
        raise InvalidInputError(f"{path} has no questions; give {form}")
    return rows
