"""Looking at a machine and, where one is given, at a bundle: facts first, then what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.doctor.facts import Facts, gather, trap_findings
from tt_edge.doctor.findings import LEVELS, Finding, size
from tt_edge.doctor.gpu import Gpu
from tt_edge.doctor.software import Library
from tt_edge.platforms import PLATFORMS
from tt_edge.tensorrt_api import Flavour
from tt_edge.tensorrt_features import release_of

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle


@dataclass(frozen=True)
class Report:
    """What ``examine`` found. ``bundle`` names the bundle that was looked at, if any."""

    facts: Facts
    findings: tuple[Finding, ...]
    bundle: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; warnings are not."""
        return all(finding.level != "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "healthy": self.healthy,
            "bundle": self.bundle or None,
            "facts": asdict(self.facts),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def render(self) -> str:
        """A page of plain text: a line a finding."""
        width = max(len(level) for level in LEVELS)
        topics = max(len(finding.topic) for finding in self.findings)
        lines = [f"{f.level:<{width}}  {f.topic:<{topics}}  {f}" for f in self.findings]
        count = sum(finding.level == "wrong" for finding in self.findings)
        lines.append("nothing is wrong" if self.healthy else f"{count} wrong")
        return "\n".join(lines)


def examine(bundle: Bundle | None = None, root: Path = Path("/"), plugin_path: str | None = None) -> Report:
    """Look at this machine, its files below ``root``, and at ``bundle``. Nothing is changed and nothing is built."""
    facts = gather(root, bundle.path if bundle else Path.cwd(), plugin_path)
    findings = [*machine_findings(facts)]
    if bundle is not None:
        from tt_edge.doctor.needs import bundle_findings

        findings += bundle_findings(facts, bundle)
    else:
        findings += trap_findings(facts)
    return Report(facts, tuple(findings), str(bundle.path) if bundle else "")


def machine_findings(facts: Facts) -> Iterator[Finding]:
    """What is here, and what of it is wrong."""
    system = facts.system
    model = f" on {system.model}" if system.model else ""
    driver = f", driver {system.driver}" if system.driver else ""
    yield Finding("ok", "system", f"{system.name}{model}{driver}")
    if target := target_of(facts):
        yield Finding("ok", "target", f"`tt-edge compile --target {target}` checks what can be built here")
    yield Finding("ok", "python", facts.python)
    yield from _gpu(facts)
    yield from _tensorrt(facts)
    yield from _library(facts.library)
    yield from _memory(facts)
    yield Finding("ok" if facts.disk_free >= 2 << 30 else "warning", "disk", f"{size(facts.disk_free)} free")


def target_of(facts: Facts) -> str:
    """The ``--target`` that describes this machine, such as ``jetpack-7.2+tensorrt-11.4+sm87``; "" if it is none."""
    if not facts.system.target:
        return ""
    platform, text = PLATFORMS[facts.system.target], facts.system.target
    installed = [release_of(package.version) for package in facts.usable if package.flavour == Flavour.STANDARD]
    if installed and [release_of(release) for release in platform.releases] != installed[:1]:
        text += "+tensorrt-{}.{}".format(*installed[0])
    if isinstance(facts.gpu, Gpu) and (facts.gpu.compute_capability,) != platform.compute_capabilities:
        text += f"+{facts.gpu.compute_capability}"
    return text


def _gpu(facts: Facts) -> Iterator[Finding]:
    gpu = facts.gpu
    if isinstance(gpu, str):
        if facts.system.is_device:
            yield Finding("wrong", "gpu", f"CUDA finds no GPU on this device: {gpu}")
        else:
            yield Finding(
                "note", "gpu", f"no GPU that CUDA can use: {gpu}", "the reference session runs bundles without one"
            )
        return
    shared = ", shared with the CPU" if gpu.integrated else ""
    yield Finding(
        "ok",
        "gpu",
        f"{gpu.name}, {gpu.compute_capability}, {size(gpu.memory)} of memory{shared}, {size(gpu.memory_free)} free",
    )
    text = f"the driver serves CUDA {gpu.driver_cuda}, the runtime library is {gpu.runtime_cuda}"
    if _major(gpu.runtime_cuda) > _major(gpu.driver_cuda):
        major = _major(gpu.driver_cuda)
        yield Finding("wrong", "cuda", text, f'pip install "cuda-bindings=={major}.*", or update the driver')
    else:
        yield Finding("ok", "cuda", text)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _tensorrt(facts: Facts) -> Iterator[Finding]:
    for package in facts.packages:
        if package.error:
            yield Finding("wrong", "tensorrt", f"{package.flavour} is installed and cannot be used: {package.error}")
            continue
        can = (
            "builds ahead of time"
            if package.builds_ahead_of_time
            else "builds"
            if package.has_builder
            else "has no builder"
        )
        lacks = f"lacks {', '.join(package.missing)}" if package.missing else "lacks no layer that bundles use"
        plugins = "" if package.has_plugins or not package.has_builder else ", takes no plugins"
        yield Finding("ok", "tensorrt", f"{package.flavour} {package.version}: {can}{plugins}; {lacks}")
    has_standard = any(package.flavour == Flavour.STANDARD.value for package in facts.packages)
    if facts.hidden_bindings is not None and not has_standard:
        yield Finding(
            "warning",
            "tensorrt",
            f"the system's Python has TensorRT in {facts.hidden_bindings}, which this Python does not see",
            "make the virtual environment with --system-site-packages and the system's python3",
        )
    elif not facts.packages:
        yield Finding(
            "warning" if facts.system.is_device else "note",
            "tensorrt",
            "no TensorRT is installed for this Python, so no engine can be built or run",
            "install tt-edge[rtx] or tt-edge[trt], or use the one of the JetPack",
        )


def _library(library: Library | None) -> Iterator[Finding]:
    if library is None:
        yield Finding("note", "plugins", "no plugin library is installed; only bundles of the plugin backend need one")
    elif library.error:
        yield Finding("warning", "plugins", f"{library.path}: {library.error}", "`tt-edge plugin` shows what it holds")
    else:
        yield Finding("ok", "plugins", f"{library.path}, attention of contract {library.contract}")


def _memory(facts: Facts) -> Iterator[Finding]:
    memory = facts.memory
    if not memory.total:
        return
    swap = f", {size(memory.swap_free)} of swap free" if memory.swap_free else ""
    yield Finding("ok", "memory", f"{size(memory.available)} of {size(memory.total)} available{swap}")
    if facts.system.kind in ("jetson", "drive"):
        reserved = (
            f"{memory.huge_pages:,} pages of {memory.huge_page >> 20} MiB reserved" if memory.huge_page else "none"
        )
        transparent = memory.transparent or "not in this kernel"
        yield Finding("ok", "huge pages", f"{reserved}, {memory.huge_pages_free:,} free; transparent: {transparent}")
        yield Finding("ok", "cma", f"{size(memory.cma_free)} of {size(memory.cma_total)} free")
