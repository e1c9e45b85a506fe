from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, attention_module, context, export
from tt_edge.errors import InvalidInputError, LoweringError
from tt_edge.lowering.cleanup.canonicalize_graph import CanonicalizeGraph
from tt_edge.lowering.cleanup.fold_constants import FoldConstants
from tt_edge.lowering.cleanup.replace_linears import ReplaceLinears
from tt_edge.lowering.decoder.insert_kv_cache import InsertKVCache
from tt_edge.lowering.dump import GraphDump, render_graph
from tt_edge.lowering.pipeline import lower


def module():
    x = torch.randn(2, 5, 8)
    function = Function(lambda self, x: torch.nn.functional.linear(x.detach(), self.weight), weight=torch.randn(4, 8))
    return export(function, x, dynamic={0: {0: "batch", 1: "sequence"}})


def test_a_pass_that_changed_the_graph_leaves_two_files(tmp_path):
    graph = module()
    lower(graph, [CanonicalizeGraph(), FoldConstants(), ReplaceLinears()], context(), tmp_path / "graphs")
    assert sorted(file.name for file in (tmp_path / "graphs").iterdir()) == [
        "01-canonicalize_graph.after.txt",
        "01-canonicalize_graph.before.txt",
        "03-replace_linears.after.txt",
        "03-replace_linears.before.txt",
    ]
    before, after = ((tmp_path / f"graphs/03-replace_linears.{kind}.txt").read_text() for kind in ("before", "after"))
    assert "linear: float32[s" in before
    assert "= aten.linear.default(" in before
    assert "= tt_edge.linear.default(" in after
    assert "aten.linear" not in after
    assert after == render_graph(graph.graph)


def test_a_pass_that_raises_leaves_what_it_was_given(tmp_path):
    with pytest.raises(LoweringError, match="matched once, not 2 times"):
        lower(attention_module(), [InsertKVCache()], context(layers=2), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "01-insert_kv_cache.before.txt",
        "01-insert_kv_cache.failed.txt",
    ]
    assert (
        "= tt_edge.attention.default(query, key, value, 0.25)"
        in (tmp_path / "01-insert_kv_cache.before.txt").read_text()
    )
    assert "tt_edge.kv_cache_update.default(" in (tmp_path / "01-insert_kv_cache.failed.txt").read_text()


def test_a_line_says_name_type_call_and_module():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 4, bias=False)

        def forward(self, x):
            return self.head(x).to(torch.float16)

    lines = render_graph(export(Model(), torch.randn(2, 8)).graph).splitlines()
    assert "x: float32[2, 8] = input" in lines
    assert any(line.startswith("head_weight: ") and line.endswith(" = constant head.weight") for line in lines)
    assert "linear: float32[2, 4] = aten.linear.default(x, head_weight)  # head" in lines
    assert lines[-1] in ("return [to]", "return (to)")


@pytest.mark.parametrize("what", ["a file", "a full folder"])
def test_only_an_empty_folder_is_written_to(tmp_path, what):
    target = tmp_path / "graphs"
    if what == "a file":
        target.write_text("")
    else:
        target.mkdir()
        (target / "01-old.before.txt").write_text("")
    with pytest.raises(InvalidInputError, match="graphs is not an empty folder; name a new or empty one"):
        GraphDump(target)
