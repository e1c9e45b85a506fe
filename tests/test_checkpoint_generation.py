"""``generation_config.json``: what becomes fields of ``GenerationConfig``, what is named as not applied, what is refused."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from tt_edge.checkpoint_generation import ALWAYS, SAMPLING, not_applied
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig

#: As transformers writes them into JSON.
MASKS = {
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7],
    "bad_words_ids": [[8], [9, 10]],
    "sequence_bias": [[[11, 12], -2.5], [[13], 1]],
    "no_repeat_ngram_size": 3,
    "min_new_tokens": 4,
    "min_length": 6,
    "repetition_penalty": 1.1,
}


def test_masks_hold_for_greedy_search_too():
    config = GenerationConfig.of_checkpoint({**MASKS, "temperature": 0.3, "top_k": 5})
    assert not config.samples
    assert config.top_k == 0
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ((5, 6), (7,))
    assert (config.bad_words_ids, config.no_repeat_ngram_size) == (((8,), (9, 10)), 3)
    assert config.sequence_bias == (((11, 12), -2.5), ((13,), 1.0))
    assert (config.min_new_tokens, config.min_length, config.repetition_penalty) == (4, 6, 1.1)


def test_sampling_settings_hold_where_it_samples():
    config = GenerationConfig.of_checkpoint({"do_sample": True, "top_p": 0.8, "min_p": None})
    assert (config.temperature, config.top_p, config.min_p) == (1.0, 0.8, 0.0)


@pytest.mark.parametrize(("given", "expected"), [({}, 50), ({"top_k": None}, 50), ({"top_k": 0}, 0), ({"top_k": 7}, 7)])
def test_top_k_is_what_generate_takes(given, expected):
    """Llama 3's file samples and says nothing of it."""
    from transformers import GenerationConfig as Theirs

    assert GenerationConfig.of_checkpoint({"do_sample": True, **given}).top_k == expected
    theirs = Theirs(do_sample=True, **given)
    defaults = Theirs._get_default_generation_params()
    assert (defaults["top_k"] if theirs.top_k is None else theirs.top_k) == expected


def test_names_are_fields_and_transformers_own():
    from transformers import GenerationConfig as Theirs

    names = {*ALWAYS, *SAMPLING}
    assert names <= {field.name for field in fields(GenerationConfig)}
    assert names <= vars(Theirs()).keys()


def test_transformers_own_file_round_trips(tmp_path):
    from transformers import GenerationConfig as Theirs

    Theirs(**MASKS).save_pretrained(tmp_path)
    config = GenerationConfig.of_checkpoint(json.loads((tmp_path / "generation_config.json").read_text()))
    assert config == GenerationConfig.of_checkpoint(MASKS)
    assert GenerationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_mapping_of_sequences():
    assert GenerationConfig(sequence_bias={(1, 2): 3}).sequence_bias == (((1, 2), 3.0),)


def test_what_is_not_applied_is_named():
    assert not_applied({**MASKS, "do_sample": False, "max_new_tokens": 7, "early_stopping": True, "num_beams": 1}) == []
    assert not_applied({"num_beams": 4, "typical_p": 0.5, "penalty_alpha": 0.6}) == ["num_beams=4", "penalty_alpha=0.6"]
    assert not_applied({"return_timestamps": True, "renormalize_logits": True}) == [
        "return_timestamps=True",
        "renormalize_logits=True",
    ]
    assert not_applied({"return_timestamps": False, "renormalize_logits": False}) == []
    assert not_applied({"do_sample": True, "typical_p": 0.5, "top_h": None}) == ["typical_p=0.5"]


def test_every_setting_of_transformers_is_known():
    """A new release's new setting is looked at before it is passed over."""
    from transformers import GenerationConfig as Theirs

    from tt_edge.checkpoint_generation import _NOT_APPLIED, _SAMPLING_NOT_APPLIED

    harmless = {  # lengths are the caller's; the others change no text, or only that of beam search
        "max_length", "max_new_tokens", "early_stopping", "do_sample", "use_mtp", "use_cache", "cache_implementation",
        "cache_config", "max_cache_len", "length_penalty", "renormalize_logits", "remove_invalid_values",
        "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
        "return_dict_in_generate", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
        "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
        "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
        "target_lookbehind", "assistant_ensemble_weight", "speculation_type", "compile_config", "disable_compile",
        "transformers_version", "continuous_batching_config",
        "diversity_penalty", "low_memory", "generation_mode", "prefill_chunk_size",
    }  # fmt: skip
    names = {name for name in vars(Theirs()) if not name.startswith("_")}
    assert names - {*ALWAYS, *SAMPLING, *_NOT_APPLIED, *_SAMPLING_NOT_APPLIED} - harmless == set()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("suppress_tokens", [1, -1], r"suppress_tokens is -1; it must be an integer"),
        ("bad_words_ids", [1], None),
        ("bad_words_ids", [[]], r"bad_words_ids has an empty list"),
        ("bad_words_ids", "no", r"bad_words_ids must be a list"),
        ("sequence_bias", [[1, 2, 3]], r"sequence_bias must be a list of pairs"),
        ("sequence_bias", [[[1], "x"]], r"sequence_bias has the bias 'x'; it must be a number"),
        ("sequence_bias", [[[1], float("nan")]], r"sequence_bias has the bias nan"),
        ("min_new_tokens", -1, r"min_new_tokens is -1"),
        ("no_repeat_ngram_size", 1.5, r"no_repeat_ngram_size is 1.5"),
    ],
)
def test_bad_values(name, value, message):
    if message is None:  # one id in place of a list of one
        assert GenerationConfig.of_checkpoint({name: value}).bad_words_ids == ((1,),)
        return
    with pytest.raises(InvalidInputError, match=message):
        GenerationConfig.of_checkpoint({name: value})
