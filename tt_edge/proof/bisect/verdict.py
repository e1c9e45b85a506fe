"""What a search for a wrong layer found. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tt_edge.network.ir import Layer, Network
from tt_edge.proof.bisect.yardstick import Measured

#: ``none``: the engine built for the search is right, so the one in the bundle is another, or the fault comes and goes.
#: ``layer``: one layer, or a few between tensors that cannot be looked at. ``fusion``: layers that are right apart and wrong
#: together.
Fault = Literal["none", "layer", "fusion"]


@dataclass(frozen=True)
class LayerFacts:
    """A layer with the types and shapes of its inputs and outputs, such as ``x: float16 [-1, -1, 896]``."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


def describe(network: Network, layer: Layer) -> LayerFacts:
    """Facts about ``layer``; inputs that are not set are left out."""

    def facts(name: str) -> str:
        tensor = network.tensors[name]
        return f"{name}: {tensor.dtype.value} {list(tensor.shape)}"

    return LayerFacts(
        layer.name,
        layer.kind,
        tuple(facts(name) for name in layer.inputs if name is not None),
        tuple(facts(name) for name in layer.outputs),
    )


@dataclass(frozen=True)
class Verdict:
    """The outcome. ``layers`` are the culprits in execution order, ``wrong`` the first tensor that is wrong, ``right`` the
    tensors that the culprits read, ``apart`` tensors that make the fault vanish when they are marked, ``trials`` how many
    engines were built, ``measured`` every tensor that was compared."""

    fault: Fault
    layers: tuple[LayerFacts, ...] = ()
    wrong: Measured | None = None
    right: tuple[Measured, ...] = ()
    apart: tuple[str, ...] = ()
    trials: int = 0
    measured: tuple[Measured, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def render(self) -> str:
        """A few lines: which layer, its types, the error, and what was right before it."""
        if self.fault == "none":
            results = ", ".join(f"{m.tensor} {m.error:.2e} of {m.allowed:.2e}" for m in self.measured[:1])
            return (
                f"the engine that was built for the search is right as far as rounding goes ({results}): rebuild the bundle's with "
                "`tt-edge build` and run `tt-edge verify` again; where it fails again, small errors add up and no layer is wrong"
            )
        assert self.wrong is not None
        lines = []
        if self.fault == "fusion":
            lines.append(f"a fusion is to blame, between {self.layers[0]} and {self.layers[-1]}:")
        elif len(self.layers) > 1:
            lines.append(f"one of {len(self.layers)} layers is wrong, between which nothing can be looked at:")
        else:
            lines.append("the first layer that is wrong:")
        for layer in self.layers:
            lines.append(f"  {layer}")
            lines += [f"    in   {text}" for text in layer.inputs] + [f"    out  {text}" for text in layer.outputs]
        lines.append(
            f"  {self.wrong.tensor} is off by {self.wrong.error:.2e} (relative L2), {self.wrong.allowed:.2e} allowed"
        )
        lines += [f"  right before it: {m.tensor}, {m.error:.2e} of {m.allowed:.2e}" for m in self.right]
        if self.fault == "fusion":
            lines.append(f"  the result is right when one of these is an output of the engine: {', '.join(self.apart)}")
        lines.append(f"  {self.trials} engines were built")
        return "\n".join(lines)
