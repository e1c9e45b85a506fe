"""GSM8K: lm-eval's prompt, and its two ways of finding the number."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.data_files import write_gsm8k
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.gsm8k import GSM8K, comparable
from tt_edge.evaluation.requests import Answer, Item


def test_the_prompt(tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text('{"question": "One?", "answer": "So.\\n#### 1"}\n{"question": "Two?", "answer": "#### 2"}\n')
    test.write_text('\n{"question": "Three?", "answer": "It is <<3=3>>3.\\n#### 3,000"}\n')
    (item,) = GSM8K(test, shots=2, fewshot=train).items(None)
    assert item.ask.prompt == (
        "Question: One?\nAnswer: So.\n#### 1\n\nQuestion: Two?\nAnswer: #### 2\n\nQuestion: Three?\nAnswer:"
    )
    assert (item.generate.max_new_tokens, item.generate.stop) == (256, ("Question:", "</s>", "<|im_end|>"))
    assert item.where == f"{test}:2"
    assert GSM8K(test, shots=0).items(None)[0].ask.prompt == "Question: Three?\nAnswer:"


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" It is 5.\n#### 3,000", True, True),
        ("#### 3000.", True, True),
        ("#### $3000", False, True),
        ("#### 3000 and #### 4", True, False),  # strict takes the first, flexible the last
        ("so 3000", False, True),
        ("so $3,000.", False, True),
        ("3000 or 2", False, False),
        ("-3000", False, False),
        ("####3000", False, True),
        ("", False, False),
        ("none", False, False),
    ],
)
def test_marks(text, strict, flexible):
    task = GSM8K.__new__(GSM8K)
    item = Item("1", "", None, "Some $3 text.\n#### 3,000")
    assert task.mark(item, Answer(text)) == {"strict": strict, "flexible": flexible}


def test_what_is_compared():
    assert comparable("a #### 1\nb\n#### $1,234.") == "1234"
    assert comparable("3.50") == "3.50"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", r"a.jsonl:2 is not a question \(KeyError: 'question'\)"),
        ("[1]", r"a.jsonl:2 is not a question \(TypeError"),
        ("no", r"a.jsonl:2 is not a question \(JSONDecodeError"),
        ('{"question": "a", "answer": "4"}', r"a.jsonl:2 has the question 'a' and the answer '4'; give JSON lines"),
        ('{"question": 1, "answer": "#### 4"}', r"a.jsonl:2 has the question 1"),
    ],
)
def test_lines_of_another_form(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "a", "answer": "#### 1"}) + f"\n{line}\n")
    with pytest.raises(InvalidInputError, match=message) as caught:
        GSM8K(tmp_path / "a.jsonl", shots=0)
    assert "\n" not in str(caught.value)


def test_refused(tmp_path):
    path = write_gsm8k(tmp_path / "a.jsonl", 3)
    with pytest.raises(InvalidInputError, match=r"--shots 5 needs examples; give --fewshot FILE"):
        GSM8K(path)
    with pytest.raises(InvalidInputError, match="has 3 examples, fewer than 5; lower --shots"):
        GSM8K(path, fewshot=path)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(InvalidInputError, match="has no questions"):
        GSM8K(tmp_path / "b.jsonl", shots=0)
