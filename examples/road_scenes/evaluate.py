"""Ask a Hugging Face checkpoint about images of a held-out split; print how many questions it answers exactly, by kind.

    python -m examples.road_scenes.evaluate [CHECKPOINT] [--count 900] [--split test] [--dtype float16] [--device cpu]
    python -m examples.road_scenes.evaluate --write-jsonl FOLDER [--count 900]

An answer counts when the greedy answer of ``generate()`` equals the expected one, letter for letter. Images are processed
by the checkpoint's own processor. --write-jsonl asks nothing: it writes the images and FOLDER/questions.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from examples.road_scenes.questions import SPLITS, Example, examples

CHECKPOINT = Path(__file__).with_name("checkpoint")
LONGEST_ANSWER = 48  # tokens; no answer is longer

Scores = dict[str, tuple[int, int]]  # by kind: answered exactly, asked


@torch.inference_mode()
def answers(model: Any, processor: Any, asked: list[Example], batch: int = 64) -> list[str]:
    """The model's greedy answer to each example. Batches are padded on the left, as ``generate()`` needs."""
    found = []
    for begin in range(0, len(asked), batch):
        part = asked[begin : begin + batch]
        texts = [
            processor.apply_chat_template(example.messages(), tokenize=False, add_generation_prompt=True)
            for example in part
        ]
        images = [picture.image() for example in part for picture in example.pictures]
        inputs = processor(text=texts, images=images or None, return_tensors="pt", padding=True, padding_side="left")
        inputs = inputs.to(model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        found += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def count(asked: list[Example], found: list[str]) -> Scores:
    """How many of the answers found are exactly right, by kind."""
    scores: Scores = {}
    for example, answer in zip(asked, found, strict=True):
        right, number = scores.get(example.kind, (0, 0))
        scores[example.kind] = (right + (answer == example.answer), number + 1)
    return scores


def table(scores: Scores) -> str:
    """One line per kind, and one for all."""
    total = tuple(map(sum, zip(*scores.values(), strict=True)))
    rows = [*scores.items(), ("all", total)]
    return "\n".join(f"{kind:10} {right:6,} of {asked:6,}  {right / asked:7.2%}" for kind, (right, asked) in rows)


def write_jsonl(folder: Path, asked: list[Example]) -> Path:
    """Write images as PNG files, and one line per question: ``messages``, ``images`` (relative paths) and ``answer``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, example in enumerate(asked):
        names = []
        for place, picture in enumerate(example.pictures):
            names.append(f"images/{number:05}-{place}.png")
            picture.image().save(folder / names[-1], optimize=True)
        row = {"kind": example.kind, "messages": example.messages(), "images": names, "answer": example.answer}
        lines.append(json.dumps(row) + "\n")
    path = folder / "questions.jsonl"
    path.write_text("".join(lines))
    return path


def load(checkpoint: Path, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """The model and its processor."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype)
    return model.to(device).eval(), AutoProcessor.from_pretrained(checkpoint)


def main() -> None:
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=900)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float16", help="a torch dtype (default float16)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print so many wrong answers")
    parser.add_argument("--write-jsonl", type=Path, metavar="FOLDER", help="write the questions and images instead")
    args = parser.parse_args()
    logging.disable_progress_bar()
    asked = examples(args.split, args.count, args.seed)
    if args.write_jsonl:
        print(write_jsonl(args.write_jsonl, asked))
        return
    model, processor = load(args.checkpoint, getattr(torch, args.dtype), args.device)
    found = answers(model, processor, asked)
    wrong = [(example, answer) for example, answer in zip(asked, found, strict=True) if answer != example.answer]
    for example, answer in wrong[: args.show_wrong]:
        print(f"{example.kind}: {example.question}\n  expected {example.answer}\n  answered {answer}")
    print(table(count(asked, found)))


if __name__ == "__main__":
    main()
