"""Giving a captured network the form that the TensorRT at hand can build. Torch-free.

Networks are captured in the newest form. On the machine that builds, ``legalize`` replaces what that TensorRT lacks by older
layers, rule by rule; what no rule replaces is refused, with the release that has it.
"""

from tt_edge.network.legalize.legalize import Form, Legalized, forms, legalize, needed_features

__all__ = ["Form", "Legalized", "forms", "legalize", "needed_features"]
