"""The contracts of AttentionPlugin, and how a library's is recognised."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS, FieldType, Interface, Operand, detect, pages_per_row
from tt_edge.plugins.edgellm.rows import Row, padded_rows, ragged_rows

LAYER = {"num_q_heads": 4, "num_kv_heads": 2, "head_size": 64, "attention_scale": 0.125, "sliding_window_size": -1}


def test_four_generations_and_our_own():
    assert list(GENERATIONS) == ["0.4", "0.9.1", "0.10", "0.11", "tt-edge"]
    assert [len(g.fields) for g in GENERATIONS.values()] == [5, 9, 14, 19, 10]
    assert [len(g.inputs) for g in GENERATIONS.values()] == [5, 7, 6, 10, 5]
    assert [g.interface for g in GENERATIONS.values()] == [Interface.V2, *[Interface.V3] * 4]
    assert [(g.name, g.namespace) for g in GENERATIONS.values()] == [
        *[("AttentionPlugin", "")] * 4, ("Attention", "tt_edge")
    ]  # fmt: skip


def test_sinks_are_one_more_input():
    own, nvidia = GENERATIONS["tt-edge"], GENERATIONS["0.11"]
    assert [o.name for o in own.operands(6)] == [*own.input_names, "sinks"]
    assert own.operands(5) == own.inputs
    assert nvidia.operands(10) == nvidia.inputs
    values = own.field_values(**LAYER, softcap=30.0, has_sinks=True, qkv_scales=(1.0, 0.5, 0.25))
    assert values["enable_attention_sink"] == (FieldType.INT32, 1)
    assert [values[name][1] for name in ("softcap", "k_scale", "v_scale")] == [30.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("version", "packed", "paged", "ragged", "window"),
    [
        ("0.4", True, False, False, False),
        ("0.9.1", False, False, False, True),
        ("0.10", True, True, False, True),
        ("0.11", True, True, True, True),
        ("tt-edge", True, False, False, True),
    ],
)
def test_layouts(version, packed, paged, ragged, window):
    g = GENERATIONS[version]
    assert (g.packed, g.paged, g.ragged, g.has_sliding_window) == (packed, paged, ragged, window)


def test_order_of_the_inputs():
    assert {version: g.input_names for version, g in GENERATIONS.items()} == {
        "0.4": ("qkv", CACHE, "context_lengths", "rope_rotary_cos_sin", "kvcache_start_index"),
        "0.9.1": ("q", "k", "v", CACHE, "context_lengths", "rope_rotary_cos_sin", "kvcache_start_index"),
        "0.10": ("qkv", CACHE, "context_lengths", "rope_rotary_cos_sin", "kvcache_start_index", "kv_page_table"),
        "0.11": (
            "qkv", CACHE, "query_lengths", "rope_rotary_cos_sin", "past_lengths", "kv_page_table",
            "query_start_offsets", "attention_sequence_lengths", "execution_phase_marker",
            "context_sequence_count_carrier",
        ),
        "tt-edge": ("qkv", CACHE, "past_lengths", "query_lengths", "rope_rotary_cos_sin"),
    }  # fmt: skip


@pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)
def test_detection(generation):
    assert detect(reversed([f.name for f in generation.fields]), generation.interface) is generation
    other = Interface.V2 if generation.interface is Interface.V3 else Interface.V3
    with pytest.raises(EngineError, match=rf"nearest: {generation.version}, which differs in interface {other}"):
        detect(generation.field_names, other)


def test_an_unknown_contract_lists_what_was_found_and_what_is_known():
    fields = [*GENERATIONS["0.10"].field_names, "enable_telepathy"]
    with pytest.raises(EngineError) as caught:
        detect(fields, Interface.V3)
    message = str(caught.value)
    assert "enable_telepathy, enable_tree_attention" in message
    assert (
        "supported generations are 0.4, 0.9.1, 0.10, 0.11, tt-edge (nearest: 0.10, which differs in enable_telepathy)"
        in message
    )


def test_field_values_leave_out_what_is_not_used():
    values = GENERATIONS["0.11"].field_values(**LAYER)
    assert values["num_q_heads"] == (FieldType.INT32, 4)
    assert values["attention_scale"] == (FieldType.FLOAT32, 0.125)
    assert values["qkv_scales"] == (FieldType.FLOAT32, (1.0, 1.0, 1.0))
    omitted = GENERATIONS["0.11"].field_names - set(values)
    assert omitted == {"qk_norm_post_rope", "supports_bounded_kv_cache", "rms_norm_eps", "xqa_jit_kernels"}
    assert list(GENERATIONS["0.4"].field_values(**LAYER)) == [f.name for f in GENERATIONS["0.4"].fields]


def test_shapes_are_resolved_by_name():
    operand = Operand("x", None, (2, "pages", 128), "")
    assert operand.resolve({"pages": 6}) == (2, 6, 128)
    assert [pages_per_row(n) for n in (1, 128, 129)] == [1, 1, 2]


class TestRows:
    def test_without_start_indices_rows_begin_at_zero(self):
        assert padded_rows(5, [5, 2], []) == [Row(0, 5, 5, 0), Row(5, 5, 2, 0)]

    def test_chunks_begin_behind_the_past(self):
        assert padded_rows(3, [3, 1], [7, 0]) == [Row(0, 3, 3, 7), Row(3, 3, 1, 0)]

    def test_the_length_of_a_decode_step_is_the_length_after_it(self):
        assert padded_rows(1, [8, 1], [7, 0]) == [Row(0, 1, 1, 7), Row(1, 1, 1, 0)]

    @pytest.mark.parametrize(("width", "lengths", "starts"), [(3, [4], []), (1, [0], [0]), (2, [1, 1], [0])])
    def test_lengths_that_make_no_sense(self, width, lengths, starts):
        with pytest.raises(InvalidInputError):
            padded_rows(width, lengths, starts)

    def test_ragged(self):
        assert ragged_rows([3, 1], [0, 4], [0, 3, 4], [3, 5], 1, 2) == [Row(0, 3, 3, 0), Row(3, 1, 1, 4)]
        assert ragged_rows([1, 1], [2, 4], [0, 1, 2], [3, 5], 3, 0) == [Row(0, 1, 1, 2), Row(1, 1, 1, 4)]

    @pytest.mark.parametrize(
        "arguments",
        [
            ([3], [0], [0, 2], [3], 1, 1),
            ([3], [1], [0, 3], [3], 1, 1),
            ([3], [0], [0, 3], [3], 3, 0),
            ([1], [0], [0, 1], [1], 1, 0),
        ],
        ids=["offsets", "totals", "generation of more than one", "no contexts"],
    )
    def test_inputs_of_0_11_must_agree(self, arguments):
        with pytest.raises(InvalidInputError):
            ragged_rows(*arguments)


def test_contracts_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import tt_edge.plugins.edgellm.contracts, tt_edge.plugins.edgellm.rows"
    subprocess.run([sys.executable, "-c", code], check=True)
