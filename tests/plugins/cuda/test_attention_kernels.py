"""The attention kernels on a GPU, beside float64: shapes, lengths, masks, types."""

from __future__ import annotations

import pytest
import torch

from tests.plugins.cuda.reference import BF16, FP8, FP16, INT8, Case, Run
from tt_edge.errors import EngineError, MissingDependencyError
from tt_edge.plugins.cuda.library import Kernels, load_kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here"),
]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    try:
        return load_kernels()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))


HEAD_SIZES = (64, 80, 96, 128, 256)
DECODE = Case(past=(700,), fresh=(1,))
PREFILL = Case(past=(0,), fresh=(200,))

DECODE_CASES = [
    *(
        DECODE.with_(past=(past,), head_size=size, heads=heads, dtype=dtype)
        for size in HEAD_SIZES
        for dtype in (FP16, BF16)
        for past, heads in ((0, (4, 4)), (37, (14, 2)), (4095, (32, 8)), (1000, (12, 1)))
    ),
    *(
        DECODE.with_(past=(length - 1,), heads=(14, 2))
        for length in (1, 2, 15, 16, 17, 127, 128, 129, 1023, 8191, 32768)
    ),
    *(DECODE.with_(past=(5000,), splits=splits, heads=(8, 2)) for splits in (1, 2, 3, 7, 64, 256)),
    *(
        DECODE.with_(past=(9000,), splits=splits, heads=heads) for splits, heads in ((40, (2, 2)), (100, (4, 1)))
    ),  # many
    DECODE.with_(heads=(40, 1), past=(333,)),  # more queries a key head than a tile has rows
    DECODE.with_(heads=(71, 1), past=(333,), head_size=64),
    DECODE.with_(past=(0, 5, 1999, 300), fresh=(1, 1, 1, 1), head_size=128),
    DECODE.with_(past=(0, 5, 1999, 300), fresh=(1, 0, 1, 0), head_size=128),  # empty slots
    DECODE.with_(past=(100, 3000), fresh=(1, 1), past_offset=-1),
    DECODE.with_(past=(100, 3000), fresh=(1, 1), packed=False),
    DECODE.with_(rotary_dim=0),
    DECODE.with_(rotary_dim=32, head_size=80),
    DECODE.with_(capacity=701),
    *(
        DECODE.with_(past=(2000, 40), fresh=(1, 1), window=window, head_size=size)
        for window in (1, 16, 100, 1024, 5000)
        for size in (64, 256)
    ),
    DECODE.with_(softcap=20.0, head_size=256, heads=(8, 4)),
    DECODE.with_(softcap=1.0),
    DECODE.with_(sinks=True, heads=(64, 8)),
    DECODE.with_(sinks=True, heads=(64, 8), window=128, past=(0, 1, 3000), fresh=(1, 1, 1)),
    *(
        DECODE.with_(cache_dtype=kind, head_size=size, dtype=dtype, past=(900, 3), fresh=(1, 1))
        for kind in (FP8, INT8)
        for size in HEAD_SIZES
        for dtype in (FP16, BF16)
    ),
    DECODE.with_(cache_dtype=FP8, heads=(16, 1), head_size=128, past=(9000,)),
]

#: More blocks than a large GPU runs at once, which other kernels are chosen for than for few.
MANY = PREFILL.with_(heads=(160, 4), past=(0, 0), fresh=(330, 330))

PREFILL_CASES = [
    *(MANY.with_(head_size=size, dtype=dtype) for size in HEAD_SIZES for dtype in (FP16, BF16)),
    *(MANY.with_(cache_dtype=kind, head_size=size, past=(70, 3)) for kind in (FP8, INT8) for size in HEAD_SIZES),
    *(MANY.with_(head_size=size, past=(31, 0), fresh=(300, 257), window=100) for size in (64, 128)),
    *(MANY.with_(head_size=size, heads=(640, 8), fresh=(64, 33), past=(70, 3), tree=True) for size in (64, 128)),
    MANY.with_(past=(500, 0), fresh=(1, 400), sinks=True),
    MANY.with_(head_size=128, softcap=20.0),
    *(
        PREFILL.with_(head_size=size, dtype=dtype, heads=heads, fresh=fresh, past=past)
        for size in HEAD_SIZES
        for dtype in (FP16, BF16)
        for heads, past, fresh in (((14, 2), (0,), (257,)), ((4, 4), (100, 3, 0), (130, 2, 64)))
    ),
    *(PREFILL.with_(fresh=(length,)) for length in (2, 3, 16, 63, 64, 65, 127, 128, 129, 1000, 2048)),
    *(
        PREFILL.with_(past=(past,), fresh=(5,)) for past in (59, 60, 123, 124, 187, 188)
    ),  # tiles for one or both teams of warps
    PREFILL.with_(fresh=(4096,), heads=(8, 1), head_size=128),
    PREFILL.with_(past=(32000,), fresh=(700,), heads=(4, 1), head_size=128),  # a chunk of a long prompt
    PREFILL.with_(past=(31, 0, 500, 9), fresh=(1, 300, 64, 0)),  # ragged, with an empty slot
    PREFILL.with_(past=(0, 0), fresh=(400, 1), packed=False),
    PREFILL.with_(rotary_dim=0),
    PREFILL.with_(rotary_dim=32, head_size=80),
    PREFILL.with_(capacity=200),
    *(
        PREFILL.with_(past=(300, 0), fresh=(200, 77), window=window, head_size=size)
        for window in (1, 7, 64, 100, 1000)
        for size in (64, 128)
    ),
    PREFILL.with_(softcap=20.0, head_size=256, heads=(8, 4)),
    PREFILL.with_(softcap=1.0, head_size=128),
    PREFILL.with_(sinks=True, heads=(64, 8)),
    PREFILL.with_(sinks=True, heads=(16, 2), window=30, past=(100, 0), fresh=(90, 91)),
    *(
        PREFILL.with_(cache_dtype=kind, head_size=size, dtype=dtype, past=(90, 3), fresh=(120, 200))
        for kind in (FP8, INT8)
        for size in HEAD_SIZES
        for dtype in (FP16, BF16)
    ),
    *(
        PREFILL.with_(tree=True, past=(777, 0, 20), fresh=(width, width, width // 2), head_size=size)
        for width in (1, 2, 9, 33, 64)
        for size in (64, 128)
    ),
    PREFILL.with_(tree=True, past=(500,), fresh=(60,), cache_dtype=FP8, sinks=True, head_size=128),
    PREFILL.with_(tree=True, past=(500,), fresh=(60,), window=90),
]


@pytest.mark.parametrize("case", DECODE_CASES, ids=str)
def test_decode(kernels: Kernels, case: Case) -> None:
    Run(kernels, case).check()


@pytest.mark.parametrize("case", PREFILL_CASES, ids=str)
def test_prefill(kernels: Kernels, case: Case) -> None:
    Run(kernels, case).check()


def test_the_update_alone_writes_what_attention_writes(kernels: Kernels) -> None:
    case = PREFILL.with_(past=(31, 0, 500, 9), fresh=(1, 300, 64, 0), cache_dtype=INT8)
    run = Run(kernels, case)
    run.call.update_cache()
    torch.cuda.synchronize()
    run._check_cache()
    assert run.call.out is not None
    assert run.call.out.isnan().all()


def test_a_full_cache_is_not_overrun(kernels: Kernels) -> None:
    """Lengths that a caller got wrong: nothing is written beyond the capacity, and the output is defined."""
    for fresh in (1, 5):
        run = Run(kernels, Case(past=(64, 3), fresh=(fresh, fresh), capacity=64))
        out = run.call.run()
        torch.cuda.synchronize()
        assert torch.equal(run.call.cache[0].view(torch.int16), run.before[0].view(torch.int16))
        assert not out[0].any()


def test_a_graph_replays_with_new_lengths(kernels: Kernels) -> None:
    """Lengths are read on the device, so that one captured graph serves every step."""
    run = Run(kernels, Case(past=(1,), fresh=(1,), capacity=3000, heads=(14, 2)))
    run.call.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run.call.run()
    for past in (1, 400, 2999):
        other = Run(kernels, run.case.with_(past=(past,)))
        for name in ("q", "k", "v"):
            getattr(run.call, name).copy_(getattr(other.call, name))
        run.call.cache.copy_(other.before)
        assert run.call.rope is not None
        assert other.call.rope is not None
        run.call.rope.copy_(other.call.rope)
        assert run.call.past_lengths is not None
        run.call.past_lengths.fill_(past)
        graph.replay()
        torch.cuda.synchronize()
        expected = other.expected()
        assert run.call.out is not None
        assert float((run.call.out.double() - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head_size": 48, "rope": None}, "head_size is 48, not 64, 80, 96, 128 or 256"),
        ({"rotary_dim": 24}, "rotary_dim is 24"),
        ({"kv_heads": 3}, "q_heads is 4, no multiple of kv_heads 3"),
        ({"cache_type": 1}, "cache_type is 1"),
        ({"workspace": None, "splits": 4}, "workspace or counters is NULL"),
        ({"q_token_stride": 511}, "a stride of q is no multiple of 8"),
    ],
)
def test_wrong_arguments_are_named(kernels: Kernels, changes: dict[str, int | None], text: str) -> None:
    run = Run(kernels, Case(past=(700,), fresh=(1,), splits=4))
    for name, value in changes.items():
        setattr(run.call.args, name, value)
    with pytest.raises(EngineError, match=text):
        run.call.run()
