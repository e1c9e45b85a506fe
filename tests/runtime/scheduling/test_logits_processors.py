"""Every logits processor against the Hugging Face processor of that name, on the same scores and tokens."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling.logits_processors import TokenHistory, processors_for
from tt_edge.runtime.scheduling.sampling import Sampler

VOCAB, PROMPT = 60, [5, 17, 17, 49, 5, 17]
EOS = (2, 59)


def hf():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers.generation.logits_process")


def eos():
    import torch

    return torch.tensor(EOS)


CASES = {
    "logit_bias": ({"logit_bias": {7: 9.0, 8: -100.0, 90: 1.0}},
                   lambda: hf().SequenceBiasLogitsProcessor({(7,): 9.0, (8,): -100.0})),
    "sequence_bias": ({"sequence_bias": (((3,), 2.5), ((5, 17, 9), -4.0), ((17, 9), 1.5), ((5, 17, 8), -np.inf), ((3,), 1.0))},
                      lambda: hf().SequenceBiasLogitsProcessor([[[3], 2.5], [[5, 17, 9], -4.0], [[17, 9], 1.5],
                                                                [[5, 17, 8], float("-inf")], [[3], 1.0]])),
    "sequence_bias longer than the text": ({"sequence_bias": ((tuple(range(20)), 3.0),)},
                                           lambda: hf().SequenceBiasLogitsProcessor({tuple(range(20)): 3.0})),
    "repetition_penalty": ({"repetition_penalty": 1.7}, lambda: hf().RepetitionPenaltyLogitsProcessor(1.7)),
    "rewarded repetition": ({"repetition_penalty": 0.5}, lambda: hf().RepetitionPenaltyLogitsProcessor(0.5)),
    "no_repeat_ngram_size 1": ({"no_repeat_ngram_size": 1}, lambda: hf().NoRepeatNGramLogitsProcessor(1)),
    "no_repeat_ngram_size 2": ({"no_repeat_ngram_size": 2}, lambda: hf().NoRepeatNGramLogitsProcessor(2)),
    "no_repeat_ngram_size 3": ({"no_repeat_ngram_size": 3}, lambda: hf().NoRepeatNGramLogitsProcessor(3)),
    "no_repeat_ngram_size 99": ({"no_repeat_ngram_size": 99}, lambda: hf().NoRepeatNGramLogitsProcessor(99)),
    "bad_words_ids": ({"bad_words_ids": ((4,), (5, 17, 6), (17, 7), (2,), (2, 3))},
                      lambda: hf().NoBadWordsLogitsProcessor([[4], [5, 17, 6], [17, 7], [2], [2, 3]], eos())),
    "min_length": ({"min_length": 9}, lambda: hf().MinLengthLogitsProcessor(9, eos())),
    "min_new_tokens": ({"min_new_tokens": 4}, lambda: hf().MinNewTokensLengthLogitsProcessor(len(PROMPT), 4, eos())),
    "suppress_tokens": ({"suppress_tokens": (1, 2, 3)}, lambda: hf().SuppressTokensLogitsProcessor([1, 2, 3])),
    "begin_suppress_tokens": ({"begin_suppress_tokens": (1, 2, 3)},
                              lambda: hf().SuppressTokensAtBeginLogitsProcessor([1, 2, 3], len(PROMPT))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_processor_over_a_growing_text(name):
    import torch

    settings, theirs = CASES[name]
    [ours] = processors_for(GenerationConfig(20, EOS, **settings), PROMPT, VOCAB)
    processor, history, random = theirs(), TokenHistory(PROMPT, 20), np.random.default_rng(1)
    for step in range(20):
        scores = random.normal(scale=3, size=VOCAB).astype(np.float32)
        want = processor(torch.tensor([history.ids.tolist()]), torch.tensor(scores)[None].clone())[0].numpy()
        ours(scores, history)
        np.testing.assert_array_equal(scores, want, err_msg=f"after {step} tokens")
        history.append([5, 17, 17, 8, 5][step % 5])


def test_all_at_once_in_transformers_order():
    """As ``generate()`` puts them together, greedily, from a generation config with every field that is applied."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": ((4,), (17, 7)),
        "sequence_bias": (((3,), 2.5), ((5, 17), 4.0)),
        "min_new_tokens": 6,
        "min_length": 9,
        "suppress_tokens": (11, 12),
        "begin_suppress_tokens": (13, 14),
    }
    lists = {name: [list(s) for s in settings[name]] for name in ("bad_words_ids",)}
    biases = [[list(sequence), bias] for sequence, bias in settings["sequence_bias"]]
    config = transformers.GenerationConfig(
        **{**settings, **lists, "sequence_bias": biases, "suppress_tokens": [11, 12], "begin_suppress_tokens": [13, 14]},
        eos_token_id=list(EOS), do_sample=False, num_beams=1,
    )  # fmt: skip

    class Model(transformers.GenerationMixin):
        config = transformers.PretrainedConfig()

    model = Model()
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device="cpu")
    theirs = model._get_logits_processor(config, input_ids_seq_length=len(PROMPT), device="cpu")
    sampler, ids, random = (
        Sampler(GenerationConfig(40, EOS, **settings), PROMPT, VOCAB),
        list(PROMPT),
        np.random.default_rng(2),
    )
    for _ in range(40):
        logits = random.normal(scale=3, size=VOCAB).astype(np.float32)
        want = int(theirs(torch.tensor([ids]), torch.tensor(logits)[None].clone())[0].argmax())
        assert sampler.choose(logits).id == want
        ids.append(want)


def test_stop_tokens_wait_for_min_new_tokens_and_ignored_ends_do_not():
    logits = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    waits = Sampler(GenerationConfig(9, (3,), stop_token_ids=(2,), min_new_tokens=2), [0], 4)
    assert [waits.choose(logits).id for _ in range(3)] == [1, 1, 3]
    ignored = Sampler(GenerationConfig(9, (3,), ignore_eos=True, min_new_tokens=2), [0], 4)
    assert ignored.choose(logits).id == 3


def test_settings_that_rule_out_every_token_are_an_error():
    with pytest.raises(InvalidInputError, match="the settings rule out every token after 1 tokens; omit some of"):
        Sampler(GenerationConfig(suppress_tokens=(0, 1, 2)), [1], 3).choose(np.zeros(3, np.float32))


@pytest.mark.parametrize("most_initial", [None, 3])
def test_timestamps_over_growing_answers(most_initial):
    """Answers that follow the rules: each token is one that is still allowed, words and timestamps alike."""
    torch = pytest.importorskip("torch")
    settings = pytest.importorskip("transformers").GenerationConfig(eos_token_id=30)
    settings.no_timestamps_token_id, settings.max_initial_timestamp_index = 40, most_initial
    theirs = hf().WhisperTimeStampLogitsProcessor(settings, begin_index=len(PROMPT))
    config = GenerationConfig(20, (30,), no_timestamps_token_id=40, max_initial_timestamp_index=most_initial)
    [ours] = processors_for(config, PROMPT, VOCAB)
    random, seen = np.random.default_rng(2), set()
    for _ in range(30):
        history = TokenHistory(PROMPT, 20)
        for _ in range(20):
            scores = random.normal(scale=3, size=VOCAB).astype(np.float32)
            scores[41:] -= 2.0  # so that not each token is a time
            want = theirs(torch.tensor([history.ids.tolist()]), torch.tensor(scores)[None].clone())[0].numpy()
            ours(scores, history)
            np.testing.assert_array_equal(scores, want)
            allowed = np.flatnonzero(np.isfinite(scores))
            if not len(allowed):
                break
            seen.add(bool((allowed > 40).any()))
            history.append(int(random.choice(allowed)))
    assert seen == {True, False}


def test_several_forced_ends_tie_in_a_beam_search():
    with pytest.raises(InvalidInputError, match=r"forced_eos_token_id \(2, 59\) has several tokens, so that beams tie"):
        GenerationConfig(20, num_beams=2, forced_eos_token_id=EOS)
