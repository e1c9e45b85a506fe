"""Benchmark results as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tt_edge.runtime.benchmark.records import Measured

#: What a reader knows the latencies as.
LATENCIES = {
    "vision": "vision tower",
    "prefill": "prefill",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "end_to_end": "end to end",
}


def speed_table(measured: Sequence[Measured]) -> str:
    """One line of medians for each of ``measured``."""
    return _medians(
        measured,
        {
            "prefill ms": (11, 2, lambda m: 1e3 * m.median(lambda r: r.prefill_s)),
            "TTFT ms": (10, 2, lambda m: 1e3 * m.median(lambda r: r.ttft_s)),
            "TPOT ms": (10, 3, lambda m: 1e3 * m.median(lambda r: r.tpot_s)),
            "tokens/s": (10, 1, _decode_rate),
        },
    )


def vision_table(measured: Sequence[Measured]) -> str:
    """One line of medians for each of ``measured``, of a vision-language model."""
    return _medians(
        measured,
        {
            "vision ms": (10, 2, lambda m: 1e3 * m.median(lambda r: r.vision_s)),
            "prefill ms": (12, 2, lambda m: 1e3 * m.median(lambda r: r.prefill_s)),
            "tokens/s": (10, 1, _decode_rate),
            "end to end ms": (15, 2, lambda m: 1e3 * m.median(lambda r: r.end_to_end_s)),
        },
    )


def _decode_rate(m: Measured) -> float:
    return m.throughput()["decode_tokens_per_s"]


def _medians(measured: Sequence[Measured], columns: dict[str, tuple[int, int, Callable[[Measured], float]]]) -> str:
    """A table of ``columns``, each a width, a number of decimals and a value, then peak memory and what ran."""
    lines = ["".join(f"{name:>{width}}" for name, (width, _, _) in columns.items()) + f"{'peak MiB':>10}  what"]
    for m in measured:
        values = "".join(f"{value(m):>{width}.{digits}f}" for width, digits, value in columns.values())
        mib, of = m.memory.model
        lines.append(f"{values}{mib:>10,.0f}  {m.what} ({of} memory)")
    return "\n".join(lines)


def full_table(measured: Sequence[Measured]) -> str:
    """Everything about each of ``measured``: a block of lines."""
    return "\n\n".join("\n".join(_block(m)) for m in measured)


def _block(m: Measured) -> list[str]:
    lines = [m.what, f"{'ms':>14}{'mean':>12}{'p50':>12}{'p90':>12}{'p99':>12}{'max':>12}"]
    for name, d in m.latencies().items():
        lines.append(
            f"{LATENCIES[name]:>14}{d.mean:>12,.2f}{d.p50:>12,.2f}{d.p90:>12,.2f}{d.p99:>12,.2f}{d.max:>12,.2f}"
        )
    rates, reuse = m.throughput(), m.reuse()
    lines.append(
        f"{'tokens/s':>14}  prefill {rates['prefill_tokens_per_s']:,.1f}, decode {rates['decode_tokens_per_s']:,.1f}, "
        f"output {rates['output_tokens_per_s']:,.1f}; {rates['requests_per_s']:,.3f} requests/s"
    )
    good, failed = m.good, [r.error for r in m.requests if r.error is not None]
    tokens = f"{sum(r.input_tokens for r in good):,} in, {sum(r.output_tokens for r in good):,} out"
    lines.append(f"{'tokens':>14}  {tokens}{f', {reuse:.1%} of the input reused from the cache' if reuse else ''}")
    for turn, part in m.turns().items():
        own, known = part.latencies()["ttft"], part.reuse()
        hit = "" if known is None else f", {known:.1%} reused"
        lines.append(f"{'turn ' + str(turn):>14}  TTFT p50 {own.p50:,.2f} ms, p99 {own.p99:,.2f} ms{hit}")
    device = "no GPU" if m.memory.device is None else f"{m.memory.device:,.0f} MiB on the device"
    host = "" if m.memory.host is None else f"; this process {m.memory.host:,.0f} MiB"
    lines.append(f"{'memory':>14}  {device}{host}")
    energy, output = m.energy, sum(r.output_tokens for r in good)
    if energy.joules is None:
        lines.append(f"{'energy':>14}  {energy.source}")
    else:
        each = f", {energy.joules / output:,.3f} J per output token" if output else ""
        lines.append(f"{'energy':>14}  {energy.joules:,.1f} J, mean {energy.watts:,.1f} W{each} ({energy.source})")
    if failed:
        lines.append(f"{'failed':>14}  {len(failed)} of {len(m.requests)} requests, the first: {failed[0]}")
    lines += [f"{'note':>14}  {note}" for note in m.notes]
    if m.is_reference:
        lines.append(
            f"{'note':>14}  evaluated in NumPy, not by TensorRT: these times say nothing about TensorRT's speed"
        )
    return lines
