"""Train a Qwen2.5-VL of 2.8 M parameters on rendered road scenes, and save it as a Hugging Face checkpoint.

    python -m examples.road_scenes.train OUT [--seconds 150] [--device cuda]

Needs torch, transformers and Pillow, and for a good model a GPU for a few minutes. First, all CPU cores draw the images.
A batch has images of one size, so that the vision tower can run batched, with the same weights and results as the model's.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import Qwen2_5_VLForConditionalGeneration

from examples.road_scenes.model import (
    MEAN,
    MERGE,
    PATCH,
    PREPROCESSOR,
    STD,
    TEMPORAL,
    conversation,
    make_model,
    make_tokenizer,
)
from examples.road_scenes.questions import random_for, random_picture
from examples.road_scenes.scene import SIZES

PART = 500  # images per seed
WIDTHS = (208, 208, 64)  # tokens of the longest chat with one, two and no images
SHARE = (1.0, 0.25, 0.03)  # rows with one, two and no images, per image of a batch's first part

Parts = list[tuple[np.ndarray, np.ndarray]]


def picture_tokens(size: tuple[int, int]) -> int:
    return (size[0] // (PATCH * MERGE)) * (size[1] // (PATCH * MERGE))


def pool_part(tokenizer: Any, split: str, seed: int) -> tuple[tuple[int, int], Parts]:
    """Images uint8 [rows * images, H, W, 3] and ids int16 [rows, WIDTH], for chats with one, two and no images."""
    rng = random_for(split, seed)
    size = SIZES[seed % len(SIZES)]
    parts: Parts = []
    for number, share, width in zip((1, 2, 0), SHARE, WIDTHS, strict=True):
        images, rows = [], []
        for _ in range(round(PART * share)):
            pictures = [random_picture(rng, size) for _ in range(number)]
            text = conversation(rng, [picture.scene for picture in pictures], picture_tokens(size))
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) > width:
                raise ValueError(f"a chat of {len(ids)} tokens is longer than {width}")
            rows.append(ids + [0] * (width - len(ids)))
            images += [np.asarray(picture.image()) for picture in pictures]
        shape = (0, *size, 3)
        parts.append((np.stack(images) if images else np.zeros(shape, np.uint8), np.array(rows, np.int16)))
    return size, parts


def patches(images: torch.Tensor) -> torch.Tensor:
    """Pixels uint8 [B, H, W, 3] to normalized patches [B, N, 3 * T * P * P], in the order of Qwen's processor."""
    count, height, width, _ = images.shape
    mean, std = (torch.tensor(values, device=images.device) * 255 for values in (MEAN, STD))
    pixels = ((images.float() - mean) / std).permute(0, 3, 1, 2)
    rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
    cut = pixels.reshape(count, 3, rows, MERGE, PATCH, columns, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    cut = cut.reshape(count, rows * columns * MERGE**2, 3, 1, PATCH, PATCH).expand(-1, -1, -1, TEMPORAL, -1, -1)
    return cut.flatten(2)


def vision_layout(visual: Any, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """For one image, in the processor's order of patches: cos and sin [N, head], window mask [N, N], and its sizes."""
    config = visual.config
    rows, columns = size[0] // PATCH, size[1] // PATCH
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")

    def ordered(grid: torch.Tensor) -> torch.Tensor:
        return grid.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE).permute(0, 2, 1, 3).flatten()

    row, column = ordered(row), ordered(column)
    head = config.hidden_size // config.num_heads
    frequency = 1.0 / (10000.0 ** (torch.arange(0, head // 2, 2, dtype=torch.float) / (head // 2)))
    angle = torch.cat([row[:, None] * frequency, column[:, None] * frequency], dim=1).repeat(1, 2)
    side = config.window_size // PATCH
    window = (row // side) * columns + column // side
    return angle.cos(), angle.sin(), window[:, None] == window[None, :], row


def vision_features(visual: Any, pixels: torch.Tensor, layout: Any) -> torch.Tensor:
    """The output of ``visual`` for a batch of images of one size: [B, N, 1176] to [B, N / 4, out]."""
    cos, sin, same_window, _ = layout
    count, number, _ = pixels.shape
    heads = visual.config.num_heads
    weight = visual.patch_embed.proj.weight
    hidden = torch.nn.functional.linear(pixels, weight.flatten(1))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.float().chunk(2, dim=-1)
        return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)

    for index, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(hidden)).reshape(count, number, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if index in visual.config.fullatt_block_indexes else same_window
        mixed = scaled_dot_product_attention(rotate(qkv[0]), rotate(qkv[1]), qkv[2], attn_mask=mask)
        hidden = hidden + block.attn.proj(mixed.transpose(1, 2).reshape(count, number, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden.reshape(count * number, -1)).reshape(count, number // MERGE**2, -1)


def rope_positions(ids: torch.Tensor, image_token: int, size: tuple[int, int]) -> torch.Tensor:
    """M-RoPE positions [3, B, S] of chats whose images all have one size, like the model's ``get_rope_index``."""
    rows, columns = size[0] // (PATCH * MERGE), size[1] // (PATCH * MERGE)
    is_image = ids == image_token
    place = (is_image.cumsum(1) - 1) % (rows * columns)
    step = torch.where(is_image, torch.where(place == rows * columns - 1, max(rows, columns), 0), 1)
    base = step.cumsum(1) - step
    zero = torch.zeros_like(base)
    offsets = [zero, torch.where(is_image, place // columns, 0), torch.where(is_image, place % columns, 0)]
    return torch.stack([base + offset for offset in offsets])


def is_answer(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """True on the tokens of the assistant's turns and on their <|im_end|>: bool [B, S]."""
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>"))
    role = tokenizer.encode("assistant\n", add_special_tokens=False)
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begin = torch.where(ids == start, position, 0).cummax(dim=1).values
    last_end = torch.where(ids == end, position, -1).cummax(dim=1).values
    in_turn = (last_end < begin) | (last_end == position)
    turn = ids.gather(1, begin + 1) == role[0]
    return turn & in_turn & (position > begin + len(role))


def forward(model: Any, images: torch.Tensor, ids: torch.Tensor, layout: Any, size: tuple[int, int]) -> torch.Tensor:
    """Logits [B, S, V] of chats with their images, in the order of the chats."""
    embedded = model.model.language_model.embed_tokens(ids)
    image_token = model.config.image_token_id
    if len(images):
        features = vision_features(model.model.visual, patches(images), layout)
        mask = (ids == image_token).unsqueeze(-1).expand_as(embedded)
        embedded = embedded.masked_scatter(mask, features.to(embedded.dtype))
    positions = rope_positions(ids, image_token, size)
    hidden = model.model.language_model(inputs_embeds=embedded, position_ids=positions, use_cache=False)
    return model.lm_head(hidden.last_hidden_state)


class Trainer:
    """Pools of images and chats on the device, one per size, and the loss of a batch drawn from them."""

    def __init__(self, model: Any, tokenizer: Any, parts: list[tuple[tuple[int, int], Parts]]) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.pools: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for size in SIZES:
            own = [part for part_size, part in parts if part_size == size]
            self.pools[size] = [
                tuple(torch.from_numpy(np.concatenate([part[i][j] for part in own])).to(self.device) for j in (0, 1))
                for i in range(3)
            ]  # type: ignore[misc]
        self.layouts = {s: tuple(t.to(self.device) for t in vision_layout(model.model.visual, s)) for s in SIZES}

    def losses(self, size: tuple[int, int], part: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses on the answers, and how many of the chats are right in each answer token."""
        images, all_ids = self.pools[size][part]
        ids = all_ids[rows].long()
        if part == 1:
            rows = torch.stack([2 * rows, 2 * rows + 1], dim=1).flatten()
        images = images[rows] if part < 2 else images
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = forward(self.model, images, ids[:, :-1], self.layouts[size], size)
        answer = is_answer(ids, self.tokenizer)[:, 1:]
        loss = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none").view_as(answer)
        wrong = ((logits.argmax(-1) != ids[:, 1:]) & answer).sum()
        return (loss * answer).sum() / answer.sum(), 1 - wrong / answer.sum()


def train(trainer: Trainer, held_out: Trainer, *, seconds: float, batch: int, peak_rate: float) -> int:
    """Train with AdamW for ``seconds``; the rate rises for the first 4 % and then falls to zero as a cosine."""
    model, device = trainer.model, trainer.device
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    counts = [max(1, round(batch * share)) for share in SHARE]
    start, step, said = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / seconds) < 1:
        rate = peak_rate * min(done / 0.04 + 0.01, 0.5 + 0.5 * float(np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        size = SIZES[step % len(SIZES)]
        for part, number in enumerate(counts):
            rows = torch.randint(len(trainer.pools[size][part][1]), (number,), device=device)
            loss, _ = trainer.losses(size, part, rows)
            (loss * (1.0, 0.4, 0.05)[part]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if done - said > 0.08:
            said = done
            torch.cuda.synchronize() if device.type == "cuda" else None
            with torch.no_grad():
                marks = [
                    np.mean([held_out.losses(s, part, torch.arange(n, device=device))[1].item() for s in SIZES])
                    for part, n in enumerate((100, 25, 3))
                ]
            print(
                f"step {step} {time.monotonic() - start:.0f} s loss {loss.item():.4f} right tokens {marks}", flush=True
            )
    return step


def save(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Any, out: Path) -> None:
    """The checkpoint in fp16, with its tokenizer, chat template and processor."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=150, help="training time (default 150)")
    parser.add_argument(
        "--parts", type=int, default=200, help=f"number of parts of {PART} images and more (default 200)"
    )
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--peak-rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    start = time.monotonic()
    with ProcessPoolExecutor() as workers:
        make = partial(pool_part, tokenizer.backend_tokenizer)
        parts = list(workers.map(partial(make, "train"), range(1, args.parts + 1)))
        held_out = list(workers.map(partial(make, "validation"), range(1, len(SIZES) + 1)))
    print(
        f"{sum(len(images) for _, p in parts for images, _ in p):,} images, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    model = make_model(tokenizer).to(args.device)
    print(f"{model.num_parameters():,} parameters", flush=True)
    steps = train(
        Trainer(model, tokenizer, parts), Trainer(model, tokenizer, held_out),
        seconds=args.seconds, batch=args.batch, peak_rate=args.peak_rate,
    )  # fmt: skip
    save(model, tokenizer, args.out)
    print(f"{args.out}: {steps} steps")


if __name__ == "__main__":
    main()
