"""The report of a bundle as one HTML page, which loads nothing and runs no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import tt_edge
from tt_edge import strict_json
from tt_edge.bundle import Bundle
from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.report.facts import collect
from tt_edge.report.plots import Plots
from tt_edge.report.weights import bytes_by_block, memory_lines
from tt_edge.roofline import DEVICES, Device, Prediction, Step, decoder_of_network, predict
from tt_edge.runtime.benchmark.tables import LATENCIES

#: Devices that are predicted if none is named.
DEFAULT_DEVICES = ("thor", "orin-agx", "orin-nano-super")
#: Prompt and cache of the predictions, if the bundle has room for them.
TOKENS = 2048
_MAX_VALUES = 1_000_000
_COUNTS = ("asked", "right", "tokens")
#: Ends of the names of metrics that are no parts of all questions, whatever their values.
_NO_SHARES = ("perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Accuracies:
    """One evaluation file: numbers by bundle, for each of ``metrics``."""

    title: str
    metrics: tuple[str, ...]
    #: Those of ``metrics`` that are parts of 1, shown in per cent.
    shares: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    plot: str = ""


@dataclass
class Report:
    """Everything that the page shows."""

    name: str
    facts: dict[str, Any]
    plots: dict[str, str] = field(default_factory=dict)
    rooflines: list[dict[str, Any]] = field(default_factory=list)
    not_predicted: dict[str, str] = field(default_factory=dict)
    accuracies: list[Accuracies] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)

    def html(self) -> str:
        """The page. Every value is escaped, and the page forbids scripts and requests."""
        source = files("tt_edge.report").joinpath("page.html").read_text("utf-8")
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {
            "mb": _mb,
            "number": _number,
            "metric": _metric,
            "shape": _shape,
            "as_number_head": _as_number_head,
        }
        return environment.from_string(source).render(
            report=self,
            facts=self.facts,
            golden=[name for name in self.facts["files"] if name.startswith("golden")],
            version=tt_edge.__version__,
            latencies=LATENCIES,
            svg=Markup,
        )


def make_report(
    bundle: Bundle, name: str, devices: Sequence[Device] | None, evals: Sequence[Path], benches: Sequence[Path]
) -> Report:
    """Read the bundle, and the JSON files of `tt-edge eval` and `tt-edge bench`.

    Raises ``InvalidInputError`` for a file that is not one, and ``MissingDependencyError`` without Matplotlib.
    """
    plots = Plots()
    report = Report(name, collect(bundle))
    report.accuracies = [_accuracies(path, plots) for path in evals]
    report.benchmarks = [_benchmark(path) for path in benches]
    if bundle.has_network:
        contract = bundle.manifest.contract
        blocks = bytes_by_block(bundle)
        report.plots["bytes"] = plots.bytes_by_block(blocks)
        report.facts["blocks"] = [{"name": block.name, "bytes": block.total, **block.by_type} for block in blocks]
        report.plots["memory"] = plots.memory(memory_lines(bundle), contract.max_seq_len, contract.max_batch)
        _predict(report, bundle, devices, plots)
    if seconds := report.facts["compile_seconds"]:
        report.plots["seconds"] = plots.bars("Seconds by stage of the compile", seconds, "s")
    return report


def _predict(report: Report, bundle: Bundle, devices: Sequence[Device] | None, plots: Plots) -> None:
    contract = bundle.manifest.contract
    isl = min(TOKENS, contract.max_input_len, contract.max_seq_len - 1)
    steps = {"prefill": Step(1, isl, 0), "decode": Step(1, 1, isl)}
    chosen = devices if devices is not None else [DEVICES[name] for name in DEFAULT_DEVICES]
    for device in chosen:
        try:
            operations = decoder_of_network(bundle.network(), contract)
            found = {phase: predict(operations, device, step) for phase, step in steps.items()}
        except TTEdgeError as error:
            report.not_predicted[device.title] = str(error)
            continue
        report.rooflines.append(
            {
                "device": device.title,
                "source": device.source,
                "isl": isl,
                "prefill_ms": found["prefill"].seconds * 1e3,
                "decode_tokens_per_s": found["decode"].tokens_per_s,
                "bound": _bounds(found["decode"]),
                "plot": plots.roofline(device, found),
            }
        )


def _bounds(step: Prediction) -> str:
    """How much of a step's time is bound by what."""
    shares: dict[str, float] = {"host": step.host_s / step.seconds}
    for layer in step.layers:
        shares[str(layer.bound)] = shares.get(str(layer.bound), 0.0) + layer.seconds / step.seconds
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))


def _read(path: Path, command: str) -> Any:
    try:
        return strict_json.loads(path.read_bytes(), _MAX_VALUES)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}); give the JSON of `tt-edge {command}`") from error


def _accuracies(path: Path, plots: Plots) -> Accuracies:
    """Of `tt-edge eval`: what ``--json`` prints, a list of rows; or its ``report.json``, with ``task`` and ``rows``."""
    data = _read(path, "eval")
    rows, title = (data.get("rows"), str(data.get("task", path.stem))) if isinstance(data, dict) else (data, path.stem)
    found: list[dict[str, Any]] = []
    for row in rows if isinstance(rows, list) else ():
        for side in ("network", "pytorch"):
            numbers = row.get(side) if isinstance(row, dict) else None
            if isinstance(numbers, dict):
                values = {name: value for name, value in numbers.items() if name not in _COUNTS and _is_number(value)}
                found.append(
                    {
                        "bundle": str(row.get("bundle", "")),
                        "format": str(row.get("format", "")),
                        "side": "PyTorch" if side == "pytorch" else str(row.get("word") or "the bundle"),
                        "weight_bytes": row["weight_bytes"] if _is_number(row.get("weight_bytes")) else None,
                        "asked": numbers["asked"] if _is_number(numbers.get("asked")) else None,
                        "values": values,
                    }
                )
    if not found:
        raise InvalidInputError(f"{path} has no rows of an evaluation; give the JSON of `tt-edge eval`")
    names = dict.fromkeys(name for row in found for name in row["values"])
    shares = [
        name
        for name in names
        if not name.endswith(_NO_SHARES) and all(0 <= row["values"].get(name, 0) <= 1 for row in found)
    ]
    plot = ""
    if shares:
        first = shares[0]
        bars = {
            f"{row['format']}, {row['side']}": 100 * row["values"][first] for row in found if first in row["values"]
        }
        plot = plots.bars(f"{first}, {title}", bars, f"{first}, %")
    metrics = (*shares, *(name for name in names if name not in shares))
    return Accuracies(title, metrics, tuple(shares), tuple(found), plot)


def _benchmark(path: Path) -> dict[str, Any]:
    """Of `tt-edge bench -o`."""
    data = _read(path, "bench -o")
    try:
        return {
            "benchmark": str(data["benchmark"]),
            "plan": str(data["plan"]),
            "rows": [
                {
                    "what": str(row["what"]),
                    "is_reference": row["is_reference"] is True,
                    "ms": {
                        str(name): {p: _as_number(values[p]) for p in ("mean", "p50", "p90", "p99")}
                        for name, values in row["ms"].items()
                    },
                    "throughput": {str(name): _as_number(value) for name, value in row["throughput"].items()},
                }
                for row in data["measured"]
            ],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{path} is not a benchmark ({type(error).__name__}: {error}); give the JSON of `tt-edge bench -o`"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_number(value: Any) -> float:
    if not _is_number(value):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f} MB"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _metric(value: float, is_share: bool) -> str:
    return f"{value:.2%}" if is_share else f"{value:,.4f}"


def _as_number_head(name: str) -> str:
    """The head of a column of numbers, as the page's tables have it."""
    return f">{name}"


def _shape(tensor: Mapping[str, Any]) -> str:
    return "[" + ", ".join(str(dim) for dim in tensor["shape"]) + "]"
