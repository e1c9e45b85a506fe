"""Replace the token ids in the network's inputs by embeddings."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from tt_edge.contract import INPUTS_EMBEDS
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    calls,
    placeholder,
    replace,
    shape,
    value,
)


class ReplaceIdsWithEmbeddings(LoweringPass):
    """Move the lookup of token embeddings out of the network; NVIDIA's C++ runtime does it itself.

    Operators that the model applies to the embeddings (such as Gemma's scale) stay in the graph.

    Before::

        1. x = aten.embedding(weight, input_ids)
        2. y = aten.mul(x, scale)

    After::

        1. y = aten.mul(inputs_embeds, scale)        inputs_embeds is a graph input, [B, S, H]
    """

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation(1, "token ids are looked up in one table")

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        tokens: Any = placeholder(graph, "input_ids")
        for node in calls(graph, aten.embedding.default):
            if node.args[1] is not tokens:
                continue
            embeds = add_placeholder(graph, INPUTS_EMBEDS, shape(node), value(node).dtype)
            replace(node, embeds)
            matches += 1
        for user in list(tokens.users):
            if user.target is not aten.sym_size.int:
                raise UnsupportedModelError(
                    f"the model uses its token ids beside looking up embeddings ({user.target}), which Edge-LLM's runtime does "
                    "not pass on; omit --layout"
                )
            user.replace_input_with(tokens, placeholder(graph, INPUTS_EMBEDS))
        return matches
