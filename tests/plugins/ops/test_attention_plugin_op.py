"""``tt_edge::attention_plugin`` against plain attention, in every generation, layout and mode."""

from __future__ import annotations

import pytest
import torch

import tt_edge.plugins.ops.attention_plugin  # noqa: F401
from tt_edge.plugins.edgellm.contracts import GENERATIONS, PAGE_TOKENS
from tt_edge.plugins.ops.semantic import rotate

HQ, HKV, D, ROTARY, CAPACITY, SCALE = 4, 2, 8, 6, 2 * PAGE_TOKENS, 0.3
VERSIONS = list(GENERATIONS)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def table():
    angles = torch.arange(CAPACITY)[:, None] * 10.0 ** -torch.arange(ROTARY // 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # [capacity, rotary_dim]


class Rows:
    """Whole sequences of several rows, and calls of the plugin on parts of them."""

    def __init__(self, version, lengths, window=-1, device="cpu", dtype=torch.float32):
        self.contract, self.window, self.device, self.dtype = GENERATIONS[version], window, device, dtype
        torch.manual_seed(0)
        self.q, self.k, self.v = (
            torch.randn(len(lengths), max(lengths), h, D).to(device, dtype) for h in (HQ, HKV, HKV)
        )
        self.past = [0] * len(lengths)
        batch = len(lengths)
        # Rubbish where nothing has been written must not be seen, nor NaN.
        if self.contract.paged:
            pages = batch * 2 + 1  # one more than needed
            self.cache = torch.full((2, pages, PAGE_TOKENS, HKV, D), 1e4, device=device, dtype=dtype)
            order = torch.randperm(pages)[: batch * 2].reshape(batch, 1, 2)
            self.pages = torch.cat([order, order + pages], dim=1).int().to(device)
        else:
            self.cache = torch.full((batch, 2, HKV, CAPACITY, D), 1e4, device=device, dtype=dtype)
        self.rope = table().to(device)

    def want(self, row, start, count):
        """Plain attention of ``count`` tokens from ``start``, ``[count, Hq, D]``."""
        until = start + count
        cos, sin = self.rope[:until, : ROTARY // 2], self.rope[:until, ROTARY // 2 :]
        q, k, v = (t[row : row + 1, :until].transpose(1, 2).float() for t in (self.q, self.k, self.v))
        out = torch.ops.tt_edge.attention(
            rotate(q, cos, sin, False), rotate(k, cos, sin, False), v, SCALE, True, max(self.window, 0)
        )
        return out[0, :, start:].transpose(0, 1)

    def call(self, counts, *, plain=False, width=None):
        """One call that adds ``counts`` tokens; ``[(row, start, count, result)]`` with the cache moved on."""
        starts = list(self.past)
        out = self._ragged(counts) if self.contract.ragged else self._padded(counts, plain, width or max(counts))
        self.past = [p + c for p, c in zip(self.past, counts, strict=True)]
        return [(row, starts[row], count, out[row]) for row, count in enumerate(counts)]

    def ints(self, values):
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def run(self, named):
        inputs = [named[name] for name in self.contract.input_names]
        out, cache = torch.ops.tt_edge.attention_plugin(inputs, self.contract.version, HQ, HKV, D, SCALE, self.window)
        assert cache.shape == self.cache.shape
        assert (out.dtype, cache.dtype) == (self.dtype, self.dtype)
        self.cache = cache
        return out

    def parts(self, counts, width):
        """Each row's new tokens, padded with rubbish to ``width``: ``[B, width, H * D]`` of Q, K, V."""
        for t in (self.q, self.k, self.v):
            padded = torch.full((len(counts), width, t.shape[2] * D), 1e3, device=self.device, dtype=self.dtype)
            for row, count in enumerate(counts):
                padded[row, :count] = t[row, self.past[row] : self.past[row] + count].flatten(1)
            yield padded

    def _padded(self, counts, plain, width):
        q, k, v = self.parts(counts, width)
        after = [p + c for p, c in zip(self.past, counts, strict=True)]
        named = {
            "q": q, "k": k, "v": v, "qkv": torch.cat([q, k, v], dim=-1),
            "past_key_values": self.cache,
            "context_lengths": self.ints(after if width == 1 and not plain else counts),
            "rope_rotary_cos_sin": self.rope[None],
            "kvcache_start_index": self.ints([] if plain else self.past),
            "kv_page_table": getattr(self, "pages", None),
            "past_lengths": self.ints(self.past), "query_lengths": self.ints(counts),
        }  # fmt: skip
        out = self.run(named)
        assert out.shape == (len(counts), width, HQ, D)
        return [out[row, :count] for row, count in enumerate(counts)]

    def _ragged(self, counts):
        parts = list(self.parts(counts, max(counts)))
        qkv = torch.cat(parts, dim=-1)
        rows = [qkv[row, :count] for row, count in enumerate(counts)]
        positions = torch.cat([torch.arange(p, p + c) for p, c in zip(self.past, counts, strict=True)])
        generation = set(counts) == {1} and all(self.past)
        named = {
            "qkv": torch.cat(rows),
            "past_key_values": self.cache,
            "query_lengths": self.ints(counts),
            "rope_rotary_cos_sin": self.rope[positions],
            "past_lengths": self.ints(self.past),
            "kv_page_table": self.pages,
            "query_start_offsets": self.ints([sum(counts[:i]) for i in range(len(counts) + 1)]),
            "attention_sequence_lengths": self.ints([p + c for p, c in zip(self.past, counts, strict=True)]),
            "execution_phase_marker": self.ints([0] * (3 if generation else 1)),
            "context_sequence_count_carrier": self.ints([0] * (0 if generation else len(counts))),
        }
        out = self.run(named)
        assert out.shape == (sum(counts), HQ, D)
        return list(out.split(counts))


def check(rows, results, **tolerance):
    for row, start, count, got in results:
        torch.testing.assert_close(got.float(), rows.want(row, start, count), **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_ragged_prefill_then_decode(version, device):
    rows = Rows(version, [12, 9], device=device)
    check(rows, rows.call([7, 4], plain=True))
    for _ in range(5):
        check(rows, rows.call([1, 1]))


@pytest.mark.parametrize("version", VERSIONS)
def test_chunks_equal_the_whole(version):
    rows = Rows(version, [150, 150])  # across a page's end
    check(rows, rows.call([6, 6], plain=True))
    for counts in ([3, 1], [130, 130], [1, 1], [2, 5]):
        check(rows, rows.call(counts))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chunk_may_begin_an_empty_row(version):
    rows = Rows(version, [8, 8])
    check(rows, rows.call([5, 2]))


@pytest.mark.parametrize("version", [v for v in VERSIONS if GENERATIONS[v].has_sliding_window])
def test_sliding_window(version):
    rows = Rows(version, [20, 20], window=4)
    check(rows, rows.call([9, 3], plain=True))
    check(rows, rows.call([6, 2]))
    check(rows, rows.call([1, 1]))


@pytest.mark.parametrize("version", [v for v in VERSIONS if not GENERATIONS[v].ragged])
def test_padding_is_overwritten_and_its_results_are_zeros(version):
    rows = Rows(version, [10, 10])
    rows.call([5, 2], plain=True)
    named = rows.call([2, 2], width=4)
    check(rows, named)
    check(rows, rows.call([1, 1]))


@pytest.mark.parametrize("version", [v for v in VERSIONS if not GENERATIONS[v].ragged])
def test_writes_past_the_capacity_are_dropped(version):
    rows = Rows(version, [CAPACITY])
    check(rows, rows.call([CAPACITY - 2], plain=True))
    check(rows, rows.call([2], width=4))


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision(version):
    rows = Rows(version, [9], dtype=torch.float16)
    check(rows, rows.call([8], plain=True), rtol=2e-2, atol=2e-2)
    check(rows, rows.call([1]), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_input_cache_is_left_alone(version):
    rows = Rows(version, [4])
    before = rows.cache
    rows.call([4], plain=True)
    assert (before == 1e4).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_a_rows_own_places_are_written(version):
    rows = Rows(version, [4, 4])
    rows.call([3, 3], plain=True)
    changed = (rows.cache != 1e4).flatten(-1).any(-1) if rows.contract.paged else rows.cache != 1e4
    if rows.contract.paged:
        changed = (rows.cache != 1e4).flatten(-2).all(-1)  # [2, pages, 128]
        assert changed.sum() == 2 * 2 * 3
        first = rows.pages[:, 0, 0]  # K pages of the rows' first tokens
        assert changed[0, first.long(), :3].all()
        assert changed[1, first.long(), :3].all()
    else:
        assert changed[:, :, :, :3].all()
        assert not changed[:, :, :, 3:].any()


def test_shapes_are_inferred():
    from torch._subclasses.fake_tensor import FakeTensorMode

    rows = Rows("0.10", [4, 4])
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(2, 5, (HQ + 2 * HKV) * D, dtype=torch.float16)
        others = [torch.empty(1)] * 3
        out, cache = torch.ops.tt_edge.attention_plugin(
            [qkv, rows.cache.half(), *others, rows.pages], "0.10", HQ, HKV, D, SCALE, -1
        )
    assert out.shape == (2, 5, HQ, D)
    assert (out.dtype, cache.shape) == (torch.float16, rows.cache.shape)
