"""The settings in a checkpoint's ``generation_config.json``, and which of them are not applied. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Settings of ``generate()`` that ``GenerationConfig`` has under the same name and that apply to greedy search, too.
ALWAYS = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "early_stopping",
    "min_new_tokens",
    "min_length",
)
#: Those that apply only if the checkpoint samples.
SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def _is_set(value: object) -> bool:
    return bool(value)


def _not_one(value: object) -> bool:
    return value not in (1, 1.0)


#: Settings that change the output of ``generate()`` but are not applied here, each with a test for values that matter.
_NOT_APPLIED: dict[str, Callable[[object], bool]] = {
    "num_beams": _not_one,
    "num_beam_groups": _not_one,
    "penalty_alpha": _is_set,
    "dola_layers": _is_set,
    "guidance_scale": _not_one,
    "encoder_repetition_penalty": _not_one,
    "encoder_no_repeat_ngram_size": _is_set,
    "exponential_decay_length_penalty": _is_set,
    "force_words_ids": _is_set,
    "constraints": _is_set,
    "stop_strings": _is_set,
    "token_healing": _is_set,
    "watermarking_config": _is_set,
    "max_time": _is_set,
    "renormalize_logits": _is_set,
    "return_timestamps": _is_set,
}
#: The same for checkpoints that sample.
_SAMPLING_NOT_APPLIED: dict[str, Callable[[object], bool]] = {
    "typical_p": _not_one,
    "epsilon_cutoff": _is_set,
    "eta_cutoff": _is_set,
    "top_h": _is_set,
}


def recommended(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``GenerationConfig`` that a ``generation_config.json`` sets; those of sampling only with ``do_sample``.

    ``generate()`` samples from the 50 most likely tokens unless ``top_k`` is given, and transformers 4 omitted that value when
    it saved a checkpoint.
    """
    names = (*ALWAYS, *SAMPLING) if data.get("do_sample") else ALWAYS
    given = {name: data[name] for name in names if data.get(name) is not None}
    return ({"temperature": 1.0, "top_k": 50} if data.get("do_sample") else {}) | given


def not_applied(data: Mapping[str, Any]) -> list[str]:
    """``NAME=VALUE`` of each setting that would change the text and is not applied, in the file's order.

    The number of new tokens is not listed, because the caller chooses it; nor are settings of beam search if it is off.
    """
    rules = _NOT_APPLIED | (_SAMPLING_NOT_APPLIED if data.get("do_sample") else {})
    return [
        f"{name}={value}" for name, value in data.items() if value is not None and name in rules and rules[name](value)
    ]
