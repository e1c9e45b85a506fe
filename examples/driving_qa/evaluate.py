"""Ask a Hugging Face checkpoint questions of a held-out split; print how many it answers exactly, by kind.

    python -m examples.driving_qa.evaluate [CHECKPOINT] [--count 4500] [--split test] [--dtype float16] [--device cpu]

An answer counts when the greedy answer of `generate()` equals the expected one, letter for letter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from examples.driving_qa.questions import SPLITS, Example, examples

CHECKPOINT = Path(__file__).with_name("checkpoint")
LONGEST_ANSWER = 24  # tokens; no answer is longer

Scores = dict[str, tuple[int, int]]  # by kind: answered exactly, asked


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, asked: list[Example], batch: int = 512) -> list[str]:
    """The model's greedy answer to each example. Batches are padded on the left, as `generate()` needs."""
    found = []
    for begin in range(0, len(asked), batch):
        texts = [
            tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
            for example in asked[begin : begin + batch]
        ]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False,
            return_token_type_ids=False,
        ).to(model.device)  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        found += tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return found


def count(asked: list[Example], found: list[str]) -> Scores:
    """How many of the answers found are exactly right, by kind."""
    scores: Scores = {}
    for example, answer in zip(asked, found, strict=True):
        right, number = scores.get(example.kind, (0, 0))
        scores[example.kind] = (right + (answer == example.answer), number + 1)
    return scores


def evaluate(model: Any, tokenizer: Any, asked: list[Example]) -> Scores:
    """How many of ``asked`` the model answers exactly, by kind."""
    return count(asked, answers(model, tokenizer, asked))


def table(scores: Scores) -> str:
    """One line per kind, and one for all."""
    total = tuple(map(sum, zip(*scores.values(), strict=True)))
    rows = [*scores.items(), ("all", total)]
    lines = [f"{kind:12} {right:6,} of {asked:6,}  {right / asked:7.2%}" for kind, (right, asked) in rows]
    return "\n".join(lines)


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=4500)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float16", help="a torch dtype (default float16)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print so many wrong answers")
    args = parser.parse_args()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=getattr(torch, args.dtype)).to(args.device)
    asked = examples(args.split, args.count, args.seed)
    found = answers(model, tokenizer, asked)
    wrong = [(example, answer) for example, answer in zip(asked, found, strict=True) if answer != example.answer]
    for example, answer in wrong[: args.show_wrong]:
        print(f"{example.kind}: {example.messages[-1]['content']}\n  expected {example.answer}\n  answered {answer}")
    print(table(count(asked, found)))


if __name__ == "__main__":
    main()
