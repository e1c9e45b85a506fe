"""The golden set on disk, and what a session answers beside it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from tests.proof.goldens import decoder_and_golden, golden_of
from tt_edge.errors import BundleError
from tt_edge.folder import CheckedFile
from tt_edge.network.storage import read_weights, write_weights
from tt_edge.proof.golden import TOP, GoldenFeatures, GoldenImage, GoldenPrompt, GoldenSet
from tt_edge.proof.replay import replay
from tt_edge.runtime.engine.reference_session import ReferenceSession


@pytest.fixture(scope="module")
def made():
    return decoder_and_golden()


def written(golden: GoldenSet, path) -> dict[str, np.ndarray]:
    buffer = io.BytesIO()
    write_weights(golden.tensors(), buffer)
    path.write_bytes(buffer.getvalue())
    return read_weights(CheckedFile.open(path))


def test_round_trip(made, tmp_path):
    _, _, golden = made
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    features = {"image_features": GoldenFeatures.of(np.ones((4, 10), np.float32))}
    golden = GoldenSet(
        "bf16", 1e-3, golden.prompts, golden.batches, (GoldenImage(pixels, features),), feature_tolerance=2e-3
    )
    again = GoldenSet.from_tensors(written(golden, tmp_path / "golden.safetensors"))
    assert (again.precision, again.tolerance, again.feature_tolerance) == ("bf16", 1e-3, 2e-3)
    assert again.batches == ((0, 1, 2), (0,))
    for one, other in zip(golden.prompts, again.prompts, strict=True):
        for name in ("ids", "tokens", "top_ids", "top_logits", "own_logits", "rest", "norms"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(again.images[0].pixels, pixels)
    np.testing.assert_allclose(again.images[0].tables["image_features"].norms, np.sqrt(10))


def test_a_real_vocabulary_is_small():
    steps, vocabulary = 32, 151_936
    logits = np.zeros((steps, vocabulary), np.float32)
    prompt = GoldenPrompt.of([1], [0] * steps, logits, logits)
    assert prompt.top_ids.shape == (steps, TOP)
    assert GoldenSet("fp16", 1e-3, (prompt,), ((0,),)).nbytes < 40_000


def test_the_same_network_matches(made):
    network, contract, golden = made
    result = replay(ReferenceSession(network, contract), golden)
    assert result.passed
    assert result.relative_error < 1e-6
    assert [(row.batch, row.prompt, row.tokens, row.ties, row.mismatches) for row in result.rows] == [
        (0, 0, 6, 0, 0), (0, 1, 6, 0, 0), (0, 2, 6, 0, 0), (1, 0, 6, 0, 0)
    ]  # fmt: skip
    assert result.first_failure is None
    assert "match: largest relative error" in result.render()
    assert json.loads(json.dumps(result.to_dict()))["passed"]


class Skewed(ReferenceSession):
    """Adds ``error`` to some of the logits from a step on."""

    def __init__(self, network, contract, error, from_step=0, elements=slice(None)) -> None:
        super().__init__(network, contract)
        self.error, self.from_step, self.elements, self.step = error, from_step, elements, 0

    def _allocate(self, batch):
        super()._allocate(batch)
        self.step = 0

    def _execute(self, feeds, rows):
        logits = super()._execute(feeds, rows).copy()
        if self.step >= self.from_step:
            logits[..., self.elements] += self.error
        self.step += 1
        return logits


def test_the_error_is_that_of_all_logits(made):
    network, contract, golden = made
    error = np.random.default_rng(0).normal(size=contract.vocab_size).astype(np.float32) * 1e-2
    result = replay(Skewed(network, contract, error), golden)
    whole = [np.linalg.norm(error) * np.sqrt(6) / np.linalg.norm(prompt.norms) for prompt in golden.prompts]
    assert [row.relative_error for row in result.rows[:3]] == pytest.approx(whole, rel=0.3)
    assert not result.passed


def test_an_error_outside_the_largest_logits_is_seen(monkeypatch):
    """A few numbers stand for the rest of the vocabulary; they are no mean that errors could cancel in."""
    monkeypatch.setattr("tt_edge.proof.golden.TOP", 8)
    network, contract, _ = decoder_and_golden()
    golden = golden_of(network, contract)
    least = int(np.setdiff1d(np.arange(contract.vocab_size), np.unique(golden.prompts[0].top_ids))[0])
    result = replay(Skewed(network, contract, -5.0, elements=slice(least, least + 1)), golden)
    assert not result.passed
    assert result.rows[0].mismatches == 0, "greedy tokens alone do not show it"


def test_the_first_wrong_step_is_named(made):
    network, contract, golden = made
    result = replay(Skewed(network, contract, np.float32(7), from_step=3, elements=slice(0, 1)), golden)
    assert [row.first_wrong_step for row in result.rows] == [3, 3, 3, 3]
    assert result.first_failure == result.rows[0]


def test_nan_does_not_match(made):
    network, contract, golden = made
    result = replay(Skewed(network, contract, np.float32("nan"), from_step=5, elements=slice(0, 1)), golden)
    assert not result.passed
    assert result.rows[0].first_wrong_step == 5


def test_a_tie_may_go_either_way(made):
    network, contract, golden = made
    prompt = golden.prompts[0]
    near = np.flatnonzero(prompt.top_ids[0] == prompt.tokens[0])[0]
    assert near == 0
    exact, own = prompt.top_logits.copy(), prompt.own_logits.copy()
    own[0, 1] = own[0, 0] - 1e-3  # PyTorch itself is off by more than its margin
    exact[0, 1] = exact[0, 0] + 1e-3
    changed = GoldenPrompt(prompt.ids, prompt.tokens, prompt.top_ids, exact, own, prompt.rest, prompt.norms)
    other = int(prompt.top_ids[0, 1])
    shift = float(exact[0, 1] - prompt.top_logits[0, 1])

    class Other(Skewed):
        def _execute(self, feeds, rows):
            self.error = np.float32(shift if self.step == 0 else 0)
            return super()._execute(feeds, rows)

    session = Other(network, contract, 0, elements=slice(other, other + 1))
    result = replay(session, GoldenSet("fp16", 0.5, (changed,), ((0,),)))
    assert (result.rows[0].ties, result.rows[0].mismatches) == (1, 0)
    assert result.passed


def test_another_model_s_golden_set_is_refused(made):
    network, contract, golden = made
    prompt = golden.prompts[0]
    foreign = GoldenPrompt.of([contract.vocab_size], prompt.tokens, *[np.zeros((6, 5), np.float32)] * 2)
    with pytest.raises(BundleError, match="has token id"):
        replay(ReferenceSession(network, contract), GoldenSet("fp32", 1e-4, (foreign,), ((0,),)))
    with_image = GoldenPrompt.of([1], prompt.tokens, *[np.zeros((6, 5), np.float32)] * 2, images=[0])
    with pytest.raises(BundleError, match="the bundle no vision network"):
        replay(ReferenceSession(network, contract), GoldenSet("fp32", 1e-4, (with_image,), ((0,),)))


def edited(golden: GoldenSet, name: str, change) -> dict[str, np.ndarray]:
    tensors = golden.tensors()
    if name == "about":
        about = json.loads(tensors["about"].tobytes())
        change(about)
        tensors["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    else:
        tensors[name] = change(tensors[name])
    return tensors


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("about", lambda about: about.update(version=1)),
        ("about", lambda about: about.update(version=True)),
        ("about", lambda about: about.update(tolerance=float("nan"))),
        ("about", lambda about: about.update(tolerance="1")),
        ("about", lambda about: about.update(batches=[[3]])),
        ("about", lambda about: about.update(batches=[0])),
        ("about", lambda about: about.update(batches=[])),
        ("about", lambda about: about.update(batches=[[0], []])),
        ("about", lambda about: about.update(images=[[0], [], []])),
        ("about", lambda about: about.pop("precision")),
        ("about", lambda about: about.update(images=[])),
        ("about", lambda about: about.update(sources=[0, 0, 0])),
        ("about", lambda about: about.update(sources=[None])),
        ("about", lambda about: about.pop("sources")),
        ("prompt.0.ids", lambda array: array.astype(np.int32)),
        ("prompt.0.ids", lambda array: array[:0]),
        ("prompt.1.tokens", lambda array: array[1:]),
        ("prompt.1.tokens", lambda array: -array - 1),
        ("prompt.2.rest", lambda array: array[:, :3]),
        ("prompt.2.top_ids", lambda array: array[0]),
        ("prompt.2.norms", lambda array: array[:2]),
    ],
)
def test_a_malformed_set_is_refused(made, name, change):
    with pytest.raises(BundleError, match=r"golden\.safetensors is malformed"):
        GoldenSet.from_tensors(edited(made[2], name, change))


def test_a_missing_tensor_is_refused(made):
    for name in made[2].tensors():
        tensors = made[2].tensors()
        tensors.pop(name)
        with pytest.raises(BundleError, match=r"golden\.safetensors is malformed"):
            GoldenSet.from_tensors(tensors)


def test_prompts_of_one_batch_have_equally_many_steps(made):
    network, contract, golden = made
    shorter = golden_of(network, contract, steps=3).prompts[1]
    mixed = GoldenSet("fp32", 1e-4, (golden.prompts[0], shorter), ((0, 1),))
    with pytest.raises(BundleError, match="have not equally many steps"):
        GoldenSet.from_tensors(mixed.tensors())
    apart = GoldenSet("fp32", 1e-4, mixed.prompts, ((0,), (1,)))
    assert replay(ReferenceSession(network, contract), GoldenSet.from_tensors(apart.tensors())).passed


def test_damaged_files_are_answered_or_refused(made, tmp_path):
    """Bytes that chance has changed: a session runs on what is left, or the set is refused; nothing else happens."""
    network, contract, golden = made
    file, rng = tmp_path / "golden.safetensors", np.random.default_rng(0)
    written(golden, file)
    pristine, refused = file.read_bytes(), 0
    session = ReferenceSession(network, contract)
    for _ in range(150):
        content = bytearray(pristine)
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(256)
        file.write_bytes(content)
        try:
            with np.errstate(all="ignore"):
                replay(session, GoldenSet.from_tensors(read_weights(CheckedFile.open(file))))
        except BundleError:
            refused += 1
    assert refused
