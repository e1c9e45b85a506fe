"""Make a small Hugging Face checkpoint on this machine, in seconds: a tokenizer, and a Qwen2 that learned a few lines.

    python examples/tiny_checkpoint.py OUT [--steps 200]

The demo and the tests need a checkpoint that is real in every respect but size: saved by `save_pretrained`, with a
byte-level BPE tokenizer and a chat template. The model is trained until it recites TEXT, so what it generates can be
judged by eye; with `--steps 0` its weights are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = (
    "The light ahead is red, so the car stops before the line.",
    "A pedestrian waits on the left, so the car slows down and gives way.",
    "The road is clear and the light is green, so the car drives on.",
    "An ambulance comes from behind, so the car pulls over to the right.",
    "Die Ampel ist grün, also fährt das Auto weiter. ✓",
    "道路が空いているので、車は進みます。",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def make_tokenizer(vocab_size: int = 512):
    """A byte-level BPE tokenizer trained on TEXT, as a transformers fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|begin|>", eos_token="<|end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def train(model, tokenizer, steps: int) -> float:
    """Teach ``model`` to recite TEXT; return the last loss."""
    import torch

    rows = [[*tokenizer(line).input_ids, tokenizer.eos_token_id] for line in TEXT]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=max(steps, 1))
    loss = float("nan")
    for _ in range(steps):
        result = model(input_ids=ids, labels=labels).loss
        result.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss = result.item()
    return loss


def make_checkpoint(folder: Path, steps: int = 200, seed: int = 0) -> float:
    """Write a checkpoint to ``folder``; return the training loss (NaN for ``steps=0``)."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,  # of 64 elements, which every backend takes
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    loss = train(model, tokenizer, steps)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200, help="training steps; 0 leaves the weights random")
    args = parser.parse_args()
    loss = make_checkpoint(args.out, args.steps)
    print(f"{args.out}: loss {loss:.4f} after {args.steps} steps")


if __name__ == "__main__":
    main()
