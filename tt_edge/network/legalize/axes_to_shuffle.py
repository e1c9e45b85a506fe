"""Squeeze and unsqueeze as shuffles, for TensorRT before 10.7."""

from __future__ import annotations

import numpy as np

from tt_edge.errors import EngineError
from tt_edge.network.ir import Layer
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import SQUEEZE


class AxesToShuffle(Rule):
    """A dimension of 1 is added or dropped at the end, where no size has to be known, and transposed to or from its place.

    Before::

        1. y = unsqueeze(x, axes)                      or squeeze; axes are constant

    After, with one 1 for each axis::

        1. y = shuffle(x): reshape (0, …, 0, 1), then transpose     or transpose, then reshape (0, …, 0)
    """

    feature = SQUEEZE

    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        if layer.kind not in ("SQUEEZE", "UNSQUEEZE"):
            return False
        x, rank = str(layer.inputs[0]), len(editor.shape(str(layer.inputs[0])))
        adds = layer.kind == "UNSQUEEZE"
        axes = _constant(editor, layer)
        longer = rank + len(axes) if adds else rank
        moved = [axis % longer for axis in axes]
        kept = [d for d in range(longer) if d not in moved]
        if adds:
            order = [0] * longer
            for source, target in enumerate([*kept, *moved]):
                order[target] = source
            more = {"reshape_dims": [0] * rank + [1] * len(axes), "second_transpose": order}
        else:
            more = {"first_transpose": kept + moved, "reshape_dims": [0] * len(kept)}
        attributes = {**more, "zero_is_placeholder": True}
        editor.keep(Layer(layer.name, "SHUFFLE", [x], list(layer.outputs), attributes))  # type: ignore[arg-type]
        return True


def _constant(editor: Editor, layer: Layer) -> list[int]:
    made = next((other for other in editor.layers if layer.inputs[1] in other.outputs), None)
    if made is None or made.kind != "CONSTANT":
        raise EngineError(
            f"layer {layer.name!r} computes the axes of its {layer.kind.lower()}, which needs {SQUEEZE.release}; build there"
        )
    return [int(axis) for axis in np.asarray(editor.weights[str(made.attributes["weights"])]).reshape(-1)]
