"""Train a Qwen2 of 1.9 M parameters to answer questions about driving scenes, and save it as a Hugging Face checkpoint.

    python -m examples.driving_qa.train OUT [--steps 8000] [--device cuda]

Needs torch and transformers, and for a good model a GPU for a few minutes. Each line of the log is the training loss and
what `evaluate.py` finds on the validation split; the table at the end is over the test split, in the saved precision.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from examples.driving_qa.evaluate import evaluate, table
from examples.driving_qa.questions import conversations, examples

ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 640  # rows of the embedding; the tokenizer may find fewer words than that
WIDTH = 128  # tokens of the longest conversation that is trained on
PROMPT_WEIGHT = 0.05  # of the loss on what is not an answer
POOL_PART = 10_000  # conversations that one seed gives


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that writes numbers digit by digit, trained on conversations of the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|begin|>", "<|end|>", *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    turns = (message["content"] for messages in islice(conversations("train"), POOL_PART) for message in messages)
    tokenizer.train_from_iterator(turns, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|begin|>", eos_token="<|end|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Random weights. Heads of 64 elements and rows of 256 and 512 suit every attention backend and quantization."""
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **tokens,
        )
    )
    model.generation_config = GenerationConfig(**tokens)
    return model


def pool_part(tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """Token ids of about POOL_PART conversations, padded on the right: int16 [conversations, WIDTH]."""
    texts = [
        "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in messages)
        for messages in islice(conversations("train", seed), POOL_PART)
    ]
    rows = [row.ids for row in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    return np.array([row for row in rows if len(row) == WIDTH], np.int16)  # not the few that are longer


def make_pool(tokenizer: PreTrainedTokenizerFast, parts: int) -> torch.Tensor:
    """``parts`` times `pool_part`, made by all CPU cores."""
    fast = tokenizer.backend_tokenizer
    fast.enable_padding(pad_id=tokenizer.pad_token_id, length=WIDTH)
    with ProcessPoolExecutor() as workers:
        pool = list(workers.map(partial(pool_part, fast), range(1, parts + 1)))
    fast.no_padding()
    return torch.from_numpy(np.concatenate(pool))


def weights(ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The weight of each token's loss: 1 in an answer and for its end, 0 on padding, else PROMPT_WEIGHT."""
    system, user, assistant = (tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ROLES)
    is_role = (ids == system) | (ids == user) | (ids == assistant)
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begin = torch.where(is_role, position, 0).cummax(dim=1).values  # of the message that a token is in
    answer = (ids.gather(1, begin) == assistant) & ~is_role
    return torch.where(answer, 1.0, PROMPT_WEIGHT).masked_fill(ids == tokenizer.pad_token_id, 0.0)


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pool: torch.Tensor,
    *,
    steps: int,
    batch: int,
    peak_rate: float,
) -> None:
    """AdamW on a one-cycle schedule; a GPU computes in bfloat16, on weights in fp32."""
    device = model.device
    pool = pool.to(device)
    decay = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=steps, pct_start=0.05)

    def loss_of(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        losses = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return (losses * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()

    compiled = torch.compile(loss_of) if device.type == "cuda" else loss_of
    held_out = examples("validation", 900)
    order = torch.randperm(len(pool), device=device)
    start = time.monotonic()
    for step in range(1, steps + 1):
        rows = order[torch.arange(step * batch, (step + 1) * batch, device=device) % len(pool)]
        ids = pool[rows].long()
        loss = compiled(ids, weights(ids, tokenizer))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(steps // 10, 1) == 0 or step == steps:
            scores = evaluate(model, tokenizer, held_out)
            seconds = time.monotonic() - start
            marks = "  ".join(f"{kind} {100 * right / asked:.0f}" for kind, (right, asked) in scores.items())
            print(f"step {step:5}  {seconds:4.0f} s  loss {loss.item():.4f}  {marks}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=1024, help="conversations a step (default 1024)")
    parser.add_argument("--pool", type=int, default=200, help=f"times {POOL_PART:,} conversations (default 200)")
    parser.add_argument("--peak-rate", type=float, default=2e-3, help="largest learning rate (default 2e-3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    tokenizer = make_tokenizer()
    pool = make_pool(tokenizer, args.pool)
    torch.manual_seed(args.seed)
    model = make_model(tokenizer).to(args.device)
    print(
        f"{model.num_parameters():,} parameters; {len(pool):,} conversations, "
        f"{(pool != tokenizer.pad_token_id).sum().item():,} tokens, made in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    train(model, tokenizer, pool, steps=args.steps, batch=args.batch, peak_rate=args.peak_rate)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: the test split, in fp16")
    print(table(evaluate(model, tokenizer, examples("test", 4500))))


if __name__ == "__main__":
    main()
