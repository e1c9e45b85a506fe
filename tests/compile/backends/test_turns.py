"""The KV cache survives use: turns and chunks give the tokens of one long prompt, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.runtime.engine.reference_session import ReferenceSession

BACKENDS = {
    "native": {"backend": "native"},
    "native, shared caches": {"backend": "native"},
    "no cache": {"backend": "sdpa", "cache": "none"},
    "static_v1": {"backend": "sdpa", "cache": "static_v1"},
    "static_v2": {"backend": "sdpa", "cache": "static_v2"},
    "plugin 0.4": {"backend": "plugin", "plugin_contract": "0.4"},
    "plugin 0.9.1": {"backend": "plugin", "plugin_contract": "0.9.1"},
    "plugin 0.10": {"backend": "plugin", "plugin_contract": "0.10"},
    "plugin 0.11": {"backend": "plugin", "plugin_contract": "0.11"},
}
TURNS = [list(range(5, 18)), [40, 41, 42], [100 + i for i in range(20)]]


@pytest.fixture(scope="module", params=BACKENDS)
def converted(request):
    if request.param == "native, shared caches":
        return compiled(tiny_model("gemma4"), **BACKENDS[request.param])
    # Mistral: a window of 8 tokens, which every turn outgrows. The plugin takes heads of 64 and more, 0.4 no windows.
    window = {"sliding_window": None} if request.param == "plugin 0.4" else {}
    model = tiny_model("mistral", head_dim=64, **window)
    return compiled(model, **BACKENDS[request.param])


def prefill(session: ReferenceSession, prompts: list[list[int]]) -> np.ndarray:
    """The logits of each prompt's last token, all fed at once."""
    ids = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return session.forward(ids, np.array([len(prompt) for prompt in prompts]))


def greedy(session: ReferenceSession, ids: list[int], count: int) -> tuple[list[int], list[np.ndarray]]:
    """Feed ``ids``, then ``count`` greedy tokens, the last of which is fed as well."""
    tokens, logits = [], [session.forward(np.array([ids]), np.array([len(ids)]))[0]]
    for _ in range(count):
        tokens.append(int(logits[-1].argmax()))
        logits.append(session.forward(np.array([tokens[-1:]]), np.array([1]))[0])
    return tokens, logits


def test_turns_equal_one_long_prompt(converted):
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(1)
        history, steps = [], []
        for turn in TURNS:
            tokens, logits = greedy(session, turn, 6)
            history += [*turn, *tokens]
            steps.append((len(history), tokens, logits[-1]))
        for length, tokens, last in steps:
            session.reset(1)
            whole = session.forward(np.array([history[:length]]), np.array([length]))[0]
            np.testing.assert_allclose(whole, last, rtol=1e-4, atol=5e-5)
            session.reset(1)
            again, _ = greedy(session, history[: length - len(tokens)], len(tokens))
            assert again == tokens


def test_chunks_equal_the_whole_prompt(converted):
    prompt = [(7 * i) % 300 + 3 for i in range(50)]
    results = []
    for sizes in ([50], [1, 30, 19], [17, 17, 16]):
        with ReferenceSession(converted.network, converted.contract) as session:
            session.reset(1)
            at = 0
            for size in sizes:
                logits = session.forward(np.array([prompt[at : at + size]]), np.array([size]))
                at += size
            results.append(logits[0])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=5e-5)


def test_a_rewound_row_forgets(converted):
    """What a rewind leaves behind in the cache is not seen, in a batch with a row that goes on."""
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(2)
        ids = np.array([TURNS[0], TURNS[0]])
        session.forward(ids, np.array([13, 13]))
        want = session.forward(np.array([[9], [9]]), np.array([1, 1]))[0]
        session.truncate([4, 14])
        rest = np.array([[*TURNS[0][4:], 9], [0] * 10])
        got = session.forward(rest, np.array([10, 1]))
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=5e-5)


def test_rows_of_different_lengths_equal_rows_alone(converted):
    prompts = [TURNS[2], TURNS[1], TURNS[0]]
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(3)
        together = prefill(session, prompts)
        step = session.forward(np.array([[8], [8], [8]]), np.array([1, 1, 1]))
        for row, prompt in enumerate(prompts):
            session.reset(1)
            np.testing.assert_allclose(prefill(session, [prompt])[0], together[row], rtol=1e-4, atol=5e-5)
            alone = session.forward(np.array([[8]]), np.array([1]))[0]
            np.testing.assert_allclose(alone, step[row], rtol=1e-4, atol=5e-5)


def test_a_row_copied_out_and_in_goes_on_as_it_was(converted):
    """Into another row of another session, over what that one held."""
    prompt, length = TURNS[2], 15
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(2)
        prefill(session, [TURNS[0], prompt])
        kept = session.read_kv(1, prompt[:length])
        want = prefill_rest(session, 1, prompt, length)
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(3)
        prefill(session, [TURNS[1], TURNS[0], TURNS[2]])
        session.write_kv(0, kept)
        assert session.past_lengths.tolist() == [length, len(TURNS[0]), len(TURNS[2])]
        np.testing.assert_allclose(prefill_rest(session, 0, prompt, length), want, rtol=1e-4, atol=5e-5)


def prefill_rest(session: ReferenceSession, row: int, prompt: list[int], length: int) -> np.ndarray:
    """The logits of the last token of ``prompt`` after its first ``length``, which ``row`` has."""
    pasts = session.past_lengths
    pasts[row] = length
    session.truncate(pasts)
    ids, lengths = np.zeros((len(pasts), len(prompt) - length), np.int64), np.zeros(len(pasts), np.int32)
    ids[row], lengths[row] = prompt[length:], len(prompt) - length
    return session.forward(ids, lengths)[row]


def test_some_slots_only(converted):
    """A call for some slots, the first, the last or one in between, leaves the others as they are."""
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(3)
        turns = [list(turn) for turn in TURNS]
        for slot in (2, 0, 1):
            session.forward(np.array([turns[slot]]), np.array([len(turns[slot])]), first=slot)
        for slots in ((1, 2), (0, 1), (1,)):
            ids = np.array([[3 + slot, 4] for slot in slots])
            session.forward(ids, np.array([2, 1][: len(slots)]), first=slots[0])
            for slot, own, length in zip(slots, ids.tolist(), (2, 1), strict=False):
                turns[slot] += own[:length]
        assert session.past_lengths.tolist() == [len(turn) for turn in turns]
        got = session.forward(np.array([[8]] * 3), np.array([1] * 3))
        for slot, ids in enumerate(turns):
            session.reset(1)
            np.testing.assert_allclose(prefill(session, [[*ids, 8]])[0], got[slot], rtol=1e-4, atol=5e-5)


def test_the_first_rows_alone(converted):
    """A step of fewer rows leaves the others as they are."""
    with ReferenceSession(converted.network, converted.contract) as session:
        session.reset(2)
        prefill(session, [TURNS[0], TURNS[1]])
        session.forward(np.array([[8, 9]]), np.array([2]))
        assert session.past_lengths.tolist() == [len(TURNS[0]) + 2, len(TURNS[1])]
        got = session.forward(np.array([[3], [4]]), np.array([1, 1]))
        for row, ids in enumerate(([*TURNS[0], 8, 9, 3], [*TURNS[1], 4])):
            session.reset(1)
            np.testing.assert_allclose(prefill(session, [ids])[0], got[row], rtol=1e-4, atol=5e-5)
