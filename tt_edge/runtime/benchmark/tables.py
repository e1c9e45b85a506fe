"""Benchmark results as text."""

from __future__ import annotations

from collections.abc import Sequence

from tt_edge.runtime.benchmark.records import Measured

_NAMES = {
    "vision": "vision tower",
    "prefill": "prefill",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "end_to_end": "end to end",
}


def speed_table(measured: Sequence[Measured]) -> str:
    """One line of medians for each of ``measured``."""
    lines = [f"{'prefill ms':>11}{'TTFT ms':>10}{'TPOT ms':>10}{'tokens/s':>10}{'peak MiB':>10}  what"]
    for m in measured:
        mib, of = m.memory.model
        lines.append(
            f"{m.median(lambda r: r.prefill_s) * 1e3:>11.2f}{m.median(lambda r: r.ttft_s) * 1e3:>10.2f}"
            f"{m.median(lambda r: r.tpot_s) * 1e3:>10.3f}{m.throughput()['decode_tokens_per_s']:>10.1f}{mib:>10,.0f}  "
            f"{m.what} ({of} memory)"
        )
    return "\n".join(lines)


def vision_table(measured: Sequence[Measured]) -> str:
    """One line of medians for each of ``measured``, of a vision-language model."""
    lines = [f"{'vision ms':>10}{'prefill ms':>12}{'tokens/s':>10}{'end to end ms':>15}{'peak MiB':>10}  what"]
    for m in measured:
        mib, of = m.memory.model
        lines.append(
            f"{m.median(lambda r: r.vision_s) * 1e3:>10.2f}{m.median(lambda r: r.prefill_s) * 1e3:>12.2f}"
            f"{m.throughput()['decode_tokens_per_s']:>10.1f}{m.median(lambda r: r.end_to_end_s) * 1e3:>15.2f}{mib:>10,.0f}  "
            f"{m.what} ({of} memory)"
        )
    return "\n".join(lines)


def full_table(measured: Sequence[Measured]) -> str:
    """Everything about each of ``measured``: a block of lines."""
    return "\n\n".join("\n".join(_block(m)) for m in measured)


def _block(m: Measured) -> list[str]:
    lines = [m.what, f"{'ms':>14}{'mean':>12}{'p50':>12}{'p90':>12}{'p99':>12}{'max':>12}"]
    for name, d in m.latencies().items():
        lines.append(f"{_NAMES[name]:>14}{d.mean:>12,.2f}{d.p50:>12,.2f}{d.p90:>12,.2f}{d.p99:>12,.2f}{d.max:>12,.2f}")
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
