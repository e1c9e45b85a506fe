"""A lowered graph of the plugin backend as an engine runs it: its caches are updated in place. For running it in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.attention_plugin  # noqa: F401  (defines the operators)
from tt_edge.compile.join_products import fuse_neighbours, join_products
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS
from tt_edge.plugins.ops import native

ops = torch.ops.tt_edge

#: Operators that stand for TensorRT layers, with PyTorch's operators in their place: a compiler sees through them.
_PLAIN = ("rms_normalize", "gather_last_token", "shuffle")


def run_in_place(module: GraphModule, join: bool = True) -> GraphModule:
    """Change ``module`` so that it returns only the logits and updates the caches that it is given; returns it.

    Before::

        1. out, present = tt_edge.attention_plugin([qkv, past_key_values_0, …], …)
        2. return logits, present

    After::

        1. out = tt_edge.attention_plugin_in_place([qkv, …], past_key_values_0, …)
        2. return logits

    The layers around the plugins are what TensorRT's builder fuses. With ``join``, ``join_products`` and ``fuse_neighbours`` stand
    for it: that graph is not the one that is converted. torch.compile may follow, which needs PyTorch's operators in place of
    those that stand for layers.
    """
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    results: Any = output.args[0]
    output.args = (results[0],)
    for node in graph.find_nodes(op="call_function", target=ops.attention_plugin.default):
        inputs, version, *settings = node.args
        place = GENERATIONS[version].input_names.index(CACHE)
        rest, cache = [*inputs[:place], *inputs[place + 1 :]], inputs[place]
        with graph.inserting_before(node):
            out = graph.call_function(ops.attention_plugin_in_place.default, (rest, cache, version, *settings))
        _use_instead(node, out)
    if join:
        join_products(module)
        fuse_neighbours(module)
    for name in _PLAIN:
        for node in graph.find_nodes(op="call_function", target=getattr(ops, name).default):
            node.target = getattr(native, name)._init_fn
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return module


def _use_instead(node: Node, out: Node) -> None:
    """The first result of ``node`` is ``out``; the second, the cache, has no user any more."""
    for user in list(node.users):
        if user.args[1] == 0:
            out.meta["val"] = user.meta["val"]
            user.replace_all_uses_with(out)
        user.graph.erase_node(user)
    node.graph.erase_node(node)
