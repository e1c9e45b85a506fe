"""Perplexity: each token of a text is predicted once, with lm-eval's windows."""

from __future__ import annotations

import json
from math import exp, inf, log
from types import SimpleNamespace

import pytest

from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.evaluation.formats.perplexity import Perplexity, prefix_token, rolling_windows
from tt_edge.evaluation.report import as_json
from tt_edge.evaluation.requests import Answer


def test_windows_as_lm_eval_documents_them():
    """The example in the docstring of lm-eval's ``LM.loglikelihood_rolling``: ten tokens, four of context."""
    assert list(rolling_windows(range(10), 99, 4, 1)) == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


@pytest.mark.parametrize("window", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [1, 4, 5, 6, 17])
def test_each_token_once(window, count):
    for context in range(1, window + 1):
        found = list(rolling_windows(range(count), 99, window, context))
        assert [token for _, targets in found for token in targets] == list(range(count))
        for before, targets in found:
            assert len(before) + len(targets) - 1 <= window
            assert before == [99] or before == list(range(targets[0] - len(before), targets[0]))
            assert before == [99] or len(before) >= context


def model(capacity=8):
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens: [ord(letter) for letter in text],
        decode=lambda ids, skip_special_tokens: "".join(map(chr, ids)),
        special_tokens={"eos_token": "<e>"},
        eos_token_ids=(7,),
        backend=SimpleNamespace(token_to_id={"<e>": 7}.get),
    )
    contract = SimpleNamespace(max_seq_len=capacity)
    return SimpleNamespace(llm=SimpleNamespace(tokenizer=tokenizer, session=SimpleNamespace(contract=contract)))


def test_the_numbers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("drei für Ü")  # 10 letters, 12 bytes, 3 words
    task = Perplexity(path)
    items = task.items(model())
    assert [len(item.score.continuation) for item in items] == [8, 2]
    assert items[0].ask.ids == (7,)
    found = task.summary(
        items, {item.id: Answer(logprob=-2.0 * n, tokens=n) for item, n in zip(items, (8, 2), strict=True)}
    )
    assert found == {
        "asked": 2,
        "tokens": 10,
        "perplexity": pytest.approx(exp(2)),
        "word_perplexity": pytest.approx(exp(20 / 3)),
        "byte_perplexity": pytest.approx(exp(20 / 12)),
        "bits_per_byte": pytest.approx(20 / 12 / log(2)),
    }
    only = Perplexity(path, count=1)
    (item,) = only.items(model())
    found = only.summary([item], {"0": Answer(logprob=-8.0, tokens=8)})
    assert found["word_perplexity"] == pytest.approx(exp(4)), "of the text that was predicted: 'drei für'"


def test_a_model_that_knows_nothing_has_an_infinite_perplexity(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    task = Perplexity(path)
    items = task.items(model())
    found = task.summary(items, {"0": Answer(logprob=-3000.0, tokens=3)})
    assert found["perplexity"] == found["word_perplexity"] == inf
    assert json.loads(as_json(found))["perplexity"] is None, "JSON has no infinity"


def test_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    with pytest.raises(CapacityError, match="--window is 9, more than max_seq_len 8; compile with --max-seq-len 9"):
        Perplexity(path, window=9).items(model())
    with pytest.raises(InvalidInputError, match="--context is 9; give 1 to 8, the tokens of a window"):
        Perplexity(path, context=9).items(model())
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(InvalidInputError, match="is empty"):
        Perplexity(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Perplexity(tmp_path / "c.txt")
    bare = model()
    bare.llm.tokenizer.special_tokens, bare.llm.tokenizer.eos_token_ids = {}, ()
    with pytest.raises(InvalidInputError, match="has no beginning or end token"):
        prefix_token(bare.llm.tokenizer)
