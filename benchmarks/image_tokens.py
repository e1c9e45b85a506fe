"""The accuracy cost of fewer image tokens: the trained model of examples/road_scenes in PyTorch, with a part of its image tokens.

    python benchmarks/image_tokens.py [--count 450] [--keep 1 0.75 0.5 0.25]

Tokens that --keep-image-tokens drops are masked out of attention, at the positions that they have among all tokens; a decoder
then computes what it computes without them. The network of a compiled bundle equals this (tt-edge verify).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.road_scenes import evaluate  # noqa: E402
from examples.road_scenes.questions import Example, examples  # noqa: E402
from tt_edge.compile.parity.images.pruning import kept_by_rule  # noqa: E402

_BATCH = 32


def without_dropped(model: Any, inputs: dict[str, Tensor], keep: float) -> Tensor:
    """The attention mask ``[B, S]`` of ``inputs``, with zeros for the image tokens that are dropped."""
    mask = inputs["attention_mask"].clone()
    if keep == 1 or "pixel_values" not in inputs:
        return mask
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    dropped = []
    for features in model.get_image_features(**images).pooler_output:
        own = torch.ones(len(features), dtype=torch.bool)
        dropped.append(own.index_fill(0, kept_by_rule(features, keep), False))
    places = (inputs["input_ids"] == model.config.image_token_id).nonzero()[torch.cat(dropped)]
    mask[places[:, 0], places[:, 1]] = 0
    return mask


@torch.inference_mode()
def answers(model: Any, processor: Any, asked: list[Example], keep: float) -> list[str]:
    """The greedy answer to each question of a batch, with ``keep`` of the tokens of each image."""
    texts = [
        processor.apply_chat_template(each.messages(), tokenize=False, add_generation_prompt=True) for each in asked
    ]
    images = [picture.image() for each in asked for picture in each.pictures]
    inputs = processor(text=texts, images=images or None, return_tensors="pt", padding=True, padding_side="left")
    mask = without_dropped(model, inputs, keep)
    grids = inputs.get("image_grid_thw")
    kinds, whole = inputs.get("mm_token_type_ids"), inputs["attention_mask"]
    positions, _ = model.model.get_rope_index(inputs["input_ids"], kinds, image_grid_thw=grids, attention_mask=whole)
    given = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    out = model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=positions, use_cache=True, **given)
    following, new = positions.amax((0, 2))[:, None] + 1, []
    for step in range(evaluate.LONGEST_ANSWER):
        tokens = out.logits[:, -1:].argmax(-1)
        new.append(tokens)
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        at = (following + step).expand(3, -1, -1)
        out = model(
            input_ids=tokens, attention_mask=mask, position_ids=at, past_key_values=out.past_key_values, use_cache=True
        )
    end = model.generation_config.eos_token_id
    rows = [row[: row.index(end)] if end in row else row for row in torch.cat(new, dim=1).tolist()]
    found: list[str] = processor.batch_decode(rows, skip_special_tokens=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=450, help="held-out questions (default 450)")
    parser.add_argument("--keep", type=float, nargs="*", default=[1, 0.75, 0.5, 0.25], help="parts of the image tokens")
    args = parser.parse_args()
    model, processor = evaluate.load(evaluate.CHECKPOINT, torch.float32, "cpu")
    asked = examples("test", args.count)
    for keep in args.keep:
        found = []
        for first in range(0, len(asked), _BATCH):
            found += answers(model, processor, asked[first : first + _BATCH], keep)
        print(f"{keep:.0%} of the image tokens\n{evaluate.table(evaluate.count(asked, found))}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
