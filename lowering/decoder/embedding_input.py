"""Embeddings in place of token ids as the network's input."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    calls,
    placeholder,
    shape,
    value,
)

NAME = "inputs_embeds"


class EmbeddingInput(LoweringPass):
    """Leave the lookup of token embeddings to whoever runs the network, as NVIDIA's C++ runtime does it.

    What the model does to them afterwards (Gemma's scale) stays in the graph.

    Before::

        1. x = aten.embedding(weight, input_ids)
        2. y = aten.mul(x, scale)

    After::

        1. y = aten.mul(inputs_embeds, scale)        inputs_embeds is a graph input, [B, S, H]
    """

    name = "embedding_input"

    def expected(self, context: LoweringContext) -> int | None:
        return 1

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        tokens: Any = placeholder(graph, "input_ids")
        for node in calls(graph, aten.embedding.default):
            if node.args[1] is not tokens:
                continue
            embeds = add_placeholder(graph, NAME, shape(node), value(node).dtype)
            node.replace_all_uses_with(embeds)
            graph.erase_node(node)
            matches += 1
        for user in list(tokens.users):
            if user.target is not aten.sym_size.int:
                raise UnsupportedModelError(
                    f"the model uses its token ids beside looking up embeddings ({user.target}), which Edge-LLM's runtime does "
                    "not pass on; leave --layout"
                )
            user.replace_input_with(tokens, placeholder(graph, NAME))
        return matches
