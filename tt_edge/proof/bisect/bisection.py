"""Finding the layer, or the fusion, that an engine computes wrongly: debugging engines with few outputs marked. Torch-free.

Marking a tensor as an output keeps TensorRT from fusing across it, so marking all of them may remove the fault that is looked
for. Hence few at a time: the ends of decoder layers first, then tensors inside of the first layer that is wrong. A tensor that
is right clears everything that it was computed from; of those that are wrong the first is looked into. Where marking makes the
final result right, the fault needs a fusion across what was marked; such tensors are set apart, and what remains between the
nearest tensors that are right and the first that is wrong is the fusion.

    probe ()          the fault is there at all
    probe (a, b, c)   still wrong: a right, b wrong      -> look between a and b
    probe (d, e)      the result is right                -> probe (d), probe (e): which of them keeps the fusion apart
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tt_edge.errors import EngineError
from tt_edge.network.ir import Layer, Network
from tt_edge.proof.bisect.graph import Graph
from tt_edge.proof.bisect.verdict import Verdict, describe
from tt_edge.proof.bisect.yardstick import Measured, Yardstick

#: Builds an engine of the network with these tensors marked besides its own outputs, runs it on the inputs that are in question,
#: and returns at least its own outputs and the marked tensors. May raise ``EngineError`` where TensorRT refuses a mark.
Trial = Callable[[Sequence[str]], Mapping[str, np.ndarray]]

#: Tensors that are marked at a time.
MARKS = 6


@dataclass
class Bisection:
    """One search. ``results`` are the network's outputs that count (not its caches), ``trial`` what runs an engine."""

    network: Network
    yardstick: Yardstick
    trial: Trial
    results: Sequence[str]
    marks: int = MARKS
    #: Told of every engine that is built: its marks, and what came of it.
    progress: Callable[[Sequence[str], str], None] = lambda marked, outcome: None

    graph: Graph = field(init=False)
    trials: int = field(init=False, default=0)
    measured: dict[str, Measured] = field(init=False, default_factory=dict)
    #: Sets of tensors: right and wrong where the fault was there; and those without which it is not there.
    right: int = field(init=False, default=0)
    wrong: int = field(init=False, default=0)
    apart: int = field(init=False, default=0)
    refused: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.graph = Graph(self.network)
        self._boundaries = self.graph.set_of(self.graph.boundaries())

    def run(self) -> Verdict:
        """Search. Raises ``EngineError`` where not even the network as it is can be built and run."""
        first = self._probe(())
        if first is None:
            return Verdict("none", trials=self.trials, measured=tuple(self.measured.values()))
        while True:
            target = self._target(first)
            suspects = self._suspects(target) & ~self.graph.bits[target]
            if not suspects & ~self.apart:
                if self._confirm(target):
                    return self._verdict(target)
                continue
            chosen = self._choose(suspects & ~self.apart)
            self._classify(chosen, suspects)

    def _target(self, output: str) -> str:
        """The first tensor that is known to be wrong and matters to ``output``."""
        return self.graph.names(self.wrong & self.graph.ancestors[output])[0]

    def _suspects(self, target: str) -> int:
        """What may have made ``target`` wrong: its ancestors that nothing right was computed from.

        A tensor that is right although one that it was computed from is known to be wrong clears only itself.
        """
        suspects = self.graph.ancestors[target]
        for name in self.graph.names(self.right):
            own = self.graph.ancestors[name]
            suspects &= ~(self.graph.bits[name] if own & self.wrong else own)
        return suspects

    def _choose(self, suspects: int) -> list[str]:
        """Evenly spread tensors, ends of decoder layers before others."""
        names = self.graph.names(suspects & self._boundaries) or self.graph.names(suspects)
        count = min(self.marks, len(names))
        places = [(2 * index + 1) * len(names) // (2 * count) for index in range(count)]
        return [names[place] for place in places]

    def _classify(self, marked: Sequence[str], suspects: int) -> None:
        """Find out about ``marked``, by halves where together they keep the fault from appearing."""
        marked = [name for name in marked if self.graph.bits[name] & suspects]
        if not marked:
            return
        if self._probe(marked) is not None:
            return
        if len(marked) == 1:
            self.apart |= self.graph.bits[marked[0]]
            return
        half = len(marked) // 2
        self._classify(marked[:half], suspects)
        target = self._target_so_far()
        self._classify(marked[half:], self._suspects(target) if target else suspects)

    def _target_so_far(self) -> str | None:
        names = self.graph.names(self.wrong)
        return names[0] if names else None

    def _probe(self, marked: Sequence[str]) -> str | None:
        """Build and run with ``marked``: the first result that is wrong, after what was marked has been classified, or ``None``
        where all results are right (or TensorRT refuses the marks)."""
        self.trials += 1
        try:
            values = self.trial(marked)
        except EngineError:
            if not marked:
                raise
            if len(marked) == 1:
                self.refused.append(marked[0])
            self.progress(marked, "refused")
            return None
        visible = [name for name in values if name in self.graph.bits]  # caches are outputs anyway, and cost no mark
        found = {name: self.yardstick.measure(name, values[name]) for name in visible}
        failed = [name for name in self.results if not found[name].right]
        if not failed and marked:
            self.progress(marked, "the fault is gone")
            return None
        self.measured |= found
        if failed:
            self.wrong |= self.graph.set_of(name for name in visible if not found[name].right)
            self.right |= self.graph.set_of(name for name in visible if found[name].right) & ~self.wrong
        self.progress(marked, "still wrong" if failed else "right")
        return failed[0] if failed else None

    def _confirm(self, target: str) -> bool:
        """Look at ``target`` and the tensors that it is computed from in one engine, if that was not done.

        ``False``: one of them is wrong after all, and the search goes on from there.
        """
        frontier = self._frontier(target)
        if not frontier:
            return True
        before = self.wrong
        marked = [*frontier, *([] if target in self.network.outputs else [target])]
        if self._probe(marked) is None:
            self.apart |= self.graph.set_of(frontier)  # it is there only where what comes before is fused, too
            return True
        return self.wrong & ~before == 0

    def _cleared(self, target: str) -> int:
        """Tensors that are right, or are taken to be because something right was computed from them."""
        return (1 << len(self.graph.markable)) - 1 & ~self._suspects(target)

    def _segment(self, target: str) -> list[Layer]:
        return self.graph.segment(target, self._cleared(target))

    def _frontier(self, target: str) -> list[str]:
        """The tensors that ``target``'s segment reads."""
        layers = self._segment(target)
        return self.graph.names(self._cleared(target) & self.graph.set_of(self._reads(layers) & self.graph.bits.keys()))

    def _verdict(self, target: str) -> Verdict:
        layers = self._segment(target)
        frontier = self._frontier(target)
        made = {name for layer in layers for name in layer.outputs}
        inside = [name for name in self.graph.names(self.apart) if name in made and name not in (target, *self.refused)]
        across = [name for name in frontier if self.graph.bits[name] & self.apart]
        fused = bool(inside or across)
        if across:  # the fusion reaches back over what the segment reads
            before = [self.graph.producers[name] for name in across]
            layers = [layer for layer in self.network.layers if layer in before or layer in layers]
        return Verdict(
            "fusion" if fused else "layer",
            layers=tuple(describe(self.network, layer) for layer in layers),
            wrong=self.measured[target],
            right=tuple(self.measured[name] for name in frontier if name in self.measured),
            apart=(*inside, *across),
            trials=self.trials,
            measured=tuple(self.measured.values()),
        )

    @staticmethod
    def _reads(layers: Sequence[Layer]) -> set[str]:
        return {name for layer in layers for name in layer.inputs if name is not None}
