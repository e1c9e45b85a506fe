"""Comparing evaluations: per-tensor differences, the first layer out of tolerance, and a plain-text table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tt_edge.errors import InvalidInputError, ParityError
from tt_edge.network.ir import Layer
from tt_edge.network.reference.evaluator import ReferenceEvaluator


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a tensor is from its reference.

    ``max_abs`` and ``relative_l2`` (the norm of the difference over the norm of the reference) cover the elements that
    are finite in both. ``mismatched`` counts the others, less those where both hold the same infinity or both NaN.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    max_abs: float
    relative_l2: float
    mismatched: int
    layer: str = ""
    kind: str = ""

    def within(self, tolerance: float) -> bool:
        """Whether ``relative_l2`` is at most ``tolerance`` and nothing is mismatched."""
        return self.mismatched == 0 and self.relative_l2 <= tolerance


def difference(tensor: str, value: np.ndarray, reference: np.ndarray, *, layer: str = "", kind: str = "") -> Difference:
    """Compare two arrays of one shape, of any types. Raises ``ParityError`` when the shapes differ."""
    if value.shape != reference.shape:
        raise ParityError(
            f"tensor {tensor!r} has shape {value.shape} but its reference has {reference.shape}; "
            "compare evaluations of the same inputs"
        )
    a, b = value.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(a) & np.isfinite(b)
        same = finite | (a == b) | (np.isnan(a) & np.isnan(b))
        delta = np.where(finite, a - b, 0.0)
        error = float(np.linalg.norm(delta))
        norm = float(np.linalg.norm(np.where(finite, b, 0.0)))
    relative = error / norm if norm else 0.0 if error == 0.0 else float("inf")
    return Difference(
        tensor, value.shape, value.dtype.name, float(np.abs(delta).max(initial=0.0)), relative,
        int(same.size - np.count_nonzero(same)), layer, kind,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences in execution order, and the relative L2 error up to which a tensor passes."""

    rows: tuple[Difference, ...]
    tolerance: float

    @property
    def first_over(self) -> Difference | None:
        """The first tensor over tolerance: where the two computations diverge."""
        return next((row for row in self.rows if not row.within(self.tolerance)), None)

    @property
    def worst(self) -> Difference | None:
        """The tensor with the most mismatched elements, or with the largest relative error if nothing is mismatched."""
        return max(self.rows, key=lambda row: (row.mismatched, row.relative_l2), default=None)

    @property
    def passed(self) -> bool:
        return self.first_over is None

    def render(self, *, only_over: bool = False) -> str:
        """A table with one line per tensor; tensors over tolerance are marked ``<`` and the first of them ``<<``."""
        first = self.first_over
        shown = [row for row in self.rows if not (only_over and row.within(self.tolerance))]
        header = ("layer", "kind", "tensor", "type", "shape", "max abs", "rel L2", "mismatched", "")
        lines = [header, *(_cells(row, self.tolerance, row is first) for row in shown)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        over = sum(not row.within(self.tolerance) for row in self.rows)
        summary = f"{len(self.rows)} tensors compared, {over} over the relative L2 tolerance of {self.tolerance:g}"
        if first is not None:
            summary += f"; the first is {first.tensor!r}" + (f" of layer {first.layer!r}" if first.layer else "")
        return "\n".join([*table, summary])


def _cells(row: Difference, tolerance: float, first: bool) -> tuple[str, ...]:
    mark = "" if row.within(tolerance) else "<<" if first else "<"
    shape = "x".join(map(str, row.shape)) or "scalar"
    numbers = f"{row.max_abs:.3e}", f"{row.relative_l2:.3e}", str(row.mismatched)
    return row.layer, row.kind, row.tensor, row.dtype, shape, *numbers, mark


def compare_tensors(
    values: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], tolerance: float
) -> Comparison:
    """Compare the tensors that both mappings hold, in the order of ``values``.

    Raises ``InvalidInputError`` when they have no tensor in common.
    """
    rows = tuple(difference(name, value, references[name]) for name, value in values.items() if name in references)
    if not rows:
        raise InvalidInputError(
            f"no tensor is in both evaluations ({_some(values)} against {_some(references)}); compare like with like"
        )
    return Comparison(rows, tolerance)


def compare_layers(
    evaluator: ReferenceEvaluator,
    feeds: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray] | Callable[[str], np.ndarray | None],
    tolerance: float,
) -> Comparison:
    """Run ``evaluator`` and compare every layer output for which there is a reference, in execution order.

    ``references`` holds tensors by name, or yields them one at a time. ``feeds`` are not changed: KV caches are copied.
    """
    find = references if callable(references) else references.get
    rows: list[Difference] = []

    def observe(layer: Layer, name: str, value: np.ndarray) -> None:
        reference = find(name)
        if reference is not None:
            rows.append(difference(name, value, reference, layer=layer.name, kind=layer.kind))

    evaluator.run(own_feeds(feeds), observe=observe)
    if not rows:
        raise InvalidInputError("the reference holds no tensor of this network; compare evaluations of one network")
    return Comparison(tuple(rows), tolerance)


def record(evaluator: ReferenceEvaluator, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every layer output of one run, by tensor name, in execution order. ``feeds`` are not changed."""
    tensors: dict[str, np.ndarray] = {}

    def observe(layer: Layer, name: str, value: np.ndarray) -> None:
        tensors[name] = value.copy()

    evaluator.run(own_feeds(feeds), observe=observe)
    return tensors


def own_feeds(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of ``feeds``, for a run that must not update the caller's KV caches."""
    return {name: value.copy() for name, value in feeds.items()}


def _some(tensors: Mapping[str, np.ndarray]) -> str:
    names = list(tensors)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") or "none"
