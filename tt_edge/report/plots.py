"""Plots as SVG text, by Matplotlib. Colours are distinguishable for the colour-blind, and in grey by their order."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tt_edge.errors import MissingDependencyError
from tt_edge.report.weights import BlockBytes, MemoryLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tt_edge.roofline import Device, Prediction

#: Okabe and Ito's colours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it is small, can be searched, and has the page's font
    "svg.hashsalt": "tt-edge",  # equal plots give equal bytes
    "text.parse_math": False,  # names with $ are no formulas
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9dde2",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#5b6570",
}
_MARKERS = {"lookup": "v", "linear": "o", "attention": "s", "cache": "D", "pointwise": "^"}
#: More blocks than this are drawn without a name each; bars beyond the second number are summed up.
_NAMED_BLOCKS, _MAX_BARS = 40, 200


class Plots:
    """Draws with Matplotlib. Raises ``MissingDependencyError`` without it."""

    def __init__(self) -> None:
        try:
            import matplotlib
            from matplotlib.figure import Figure
            from matplotlib.ticker import EngFormatter
        except ImportError as error:
            raise MissingDependencyError(
                'matplotlib is not installed, which draws the plots; pip install "tt-edge[report]"'
            ) from error
        self._matplotlib, self._figure = matplotlib, Figure
        self._engineering = EngFormatter

    def bytes_by_block(self, blocks: Sequence[BlockBytes]) -> str:
        """A bar for each block, of its types; types too rare to be seen are omitted."""
        blocks = _at_most(blocks, _MAX_BARS)
        types = sorted({t for block in blocks for t in block.by_type}, key=lambda t: -_total(blocks, t))
        whole = sum(block.total for block in blocks)
        types = [dtype for dtype in types if _total(blocks, dtype) >= whole / 1000]

        def draw(axes: Axes) -> None:
            left = [0.0] * len(blocks)
            for number, dtype in enumerate(types):
                width = [block.by_type.get(dtype, 0) / 1e6 for block in blocks]
                axes.barh(range(len(blocks)), width, left=left, color=COLOURS[number % 8], label=dtype, height=0.75)
                left = [a + b for a, b in zip(left, width, strict=True)]
            step = -(-len(blocks) // _NAMED_BLOCKS)
            axes.set_yticks(range(0, len(blocks), step), [block.name for block in blocks[::step]])
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("MB")
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)

        height = 1.2 + 0.26 * min(len(blocks), _NAMED_BLOCKS)
        return self._svg(draw, height, "Bytes of weights by block and type")

    def memory(self, lines: Sequence[MemoryLine], capacity: int, batch: int) -> str:
        """A line for each batch; the bundle's own limits are marked."""

        def draw(axes: Axes) -> None:
            for number, line in enumerate(lines):
                values = [value / 1e6 for value in line.bytes]
                axes.plot(line.tokens, values, color=COLOURS[number % 8], label=f"batch {line.batch}", marker=".")
                if line.batch == batch and capacity in line.tokens:
                    at = values[line.tokens.index(capacity)]
                    axes.plot(
                        [capacity], [at], "o", markersize=11, fillstyle="none", color="black", label="this bundle"
                    )
            axes.set_xscale("log", base=2)
            axes.set_xticks(lines[0].tokens, [f"{tokens:,}" for tokens in lines[0].tokens])
            axes.minorticks_off()
            axes.set_xlabel("capacity of a sequence, tokens")
            axes.set_ylabel("MB")
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)

        return self._svg(draw, 3.6, "Memory of weights and KV cache by sequence length and batch")

    def roofline(self, device: Device, steps: Mapping[str, Prediction]) -> str:
        """The device's roofs, and each operation of each step by arithmetic intensity and predicted speed."""

        def draw(axes: Axes) -> None:
            used = {layer.operation.math for step in steps.values() for layer in step.layers if layer.flops}
            peaks = {str(math): device.peak[math] * 1e12 for math in sorted(used) if math in device.peak}
            bandwidth, top = device.bandwidth * 1e9, max(peaks.values(), default=1e12)
            x = [1e-2, *sorted(peak / bandwidth for peak in peaks.values()), 1e5]
            for style, (name, peak) in zip(("-", "--", "-.", ":"), peaks.items(), strict=False):
                roof = [min(peak, bandwidth * at) for at in x]
                axes.plot(x, roof, style, color="#5b6570", linewidth=1.2, label=f"roof, {name}")
            for colour, (phase, step) in zip(COLOURS, steps.items(), strict=False):
                for kind in dict.fromkeys(layer.operation.kind for layer in step.layers if layer.flops):
                    own = [layer for layer in step.layers if layer.operation.kind is kind and layer.flops]
                    axes.plot(
                        [layer.flops / layer.bytes for layer in own],
                        [layer.flops / layer.seconds for layer in own],
                        _MARKERS[kind],
                        color=colour,
                        alpha=0.6,
                        markersize=6,
                        label=f"{phase}, {kind}",
                    )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlim(1e-1, 1e4)
            axes.set_ylim(top=top * 3)
            axes.xaxis.set_major_formatter(self._engineering(sep=""))
            axes.yaxis.set_major_formatter(self._engineering())
            axes.set_xlabel("FLOP per byte")
            axes.set_ylabel("FLOP/s")
            axes.legend(frameon=False, fontsize=8)

        return self._svg(draw, 4.0, f"Roofline of {device.title}")

    def bars(self, title: str, values: Mapping[str, float], unit: str) -> str:
        """A horizontal bar with its value for each name, as many as a page has room for."""
        values = dict(list(values.items())[:_NAMED_BLOCKS])

        def draw(axes: Axes) -> None:
            drawn = axes.barh(range(len(values)), list(values.values()), color=COLOURS[0], height=0.7)
            axes.bar_label(drawn, [f"{value:,.4g}" for value in values.values()], padding=3)
            axes.set_yticks(range(len(values)), list(values))
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(unit)

        return self._svg(draw, 1.0 + 0.32 * len(values), title)

    def _svg(self, draw: Any, height: float, title: str) -> str:
        """The plot as an ``<svg>`` element that scales with the page and has its title for screen readers."""
        with self._matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of characters that Matplotlib's font lacks: the reader's font is used
            figure = self._figure(figsize=(6.4, height), layout="constrained")
            draw(figure.add_subplot())
            out = io.StringIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Title": title})
        text = out.getvalue()
        svg = text[text.index("<svg") :]
        # Identifiers are unique on the page: several plots stand on it.
        salt = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        svg = re.sub(r"\s*<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'(id="|url\(#|href="#)', rf"\1{salt}-", svg)
        return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ', _sized, svg, count=1)


def _sized(found: re.Match[str]) -> str:
    return f'<svg role="img" {found[1] or ""}'


def _at_most(blocks: Sequence[BlockBytes], count: int) -> Sequence[BlockBytes]:
    """The first blocks; the last of them is the sum of the rest."""
    if len(blocks) <= count:
        return blocks
    rest: dict[str, int] = {}
    for block in blocks[count - 1 :]:
        for dtype, nbytes in block.by_type.items():
            rest[dtype] = rest.get(dtype, 0) + nbytes
    return [*blocks[: count - 1], BlockBytes("the rest", rest)]


def _total(blocks: Sequence[BlockBytes], dtype: str) -> int:
    return sum(block.by_type.get(dtype, 0) for block in blocks)
