"""Show what differs between two bundles: the model, settings, inputs and outputs, layers by kind, weights by type, bytes of a
decode step, platforms, engines, evidence, and files by SHA-256. Reads the networks' structure but not their weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import add_require_signature

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

#: Entries of a list, by what identifies them.
_KEYS = {
    "inputs": ("name",),
    "outputs": ("name",),
    "platforms": ("platform", "tensorrt"),
    "engines": ("part", "compute_capability", "flavour", "tensorrt_version", "platform"),
    "evidence": ("claim",),
}
# Facts of a machine, not of a bundle: of this one, or of the one that compiled it.
_OF_MACHINE = frozenset({"does_not_run_here", "compile_seconds"})


@dataclass(frozen=True)
class Difference:
    """A fact that differs; ``None`` where a bundle lacks it. ``path`` such as ``("layers", "ATTENTION")``."""

    path: tuple[str, ...]
    first: Any
    second: Any


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("first", help="a bundle written by tt-edge compile")
    parser.add_argument("second", help="another one")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Compare; the exit status is 0 whether or not the bundles differ."""
    import sys

    from tt_edge.bundle import Bundle
    from tt_edge.cli.terminal import safe

    first, second = (facts(Bundle.open(path, args.require_signature)) for path in (args.first, args.second))
    found = list(differences(first, second))
    if args.json:
        import json

        rows = [{"path": list(d.path), "first": d.first, "second": d.second} for d in found]
        print(json.dumps({"first": args.first, "second": args.second, "differences": rows}, indent=2))
    else:
        print(safe(render(args.first, args.second, found), sys.stdout))
    return 0


def facts(bundle: Bundle) -> dict[str, Any]:
    """What `tt-edge inspect` shows, and each file's SHA-256."""
    from tt_edge.report.facts import collect

    files = {name: record.sha256 for name, record in bundle.manifest.files.items()}
    return collect(bundle) | {"files": files}


def differences(first: Any, second: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Every leaf of the two that differs, in the order of ``first``, then what only ``second`` has."""
    first, second = _by_key(first, path), _by_key(second, path)
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys((*first, *second)):
            if key not in _OF_MACHINE:
                yield from differences(first.get(key), second.get(key), (*path, key))
    elif first != second:
        yield Difference(path, first, second)


def _by_key(value: Any, path: tuple[str, ...]) -> Any:
    """A list of entries that have names as a mapping; anything else as it is."""
    keys = _KEYS.get(path[-1]) if path else None
    if keys is None or not isinstance(value, list):
        return value
    found: dict[str, Any] = {}
    for entry in value:
        name = " ".join(str(entry[key]) for key in keys)
        while name in found:  # such as two runs of one check
            name += " again"
        found[name] = {key: field for key, field in entry.items() if key not in keys}
    return found


def render(first: str, second: str, found: list[Difference]) -> str:
    """A line per difference, by section."""
    if not found:
        return f"{first} and {second} are equal: every fact, and every file's SHA-256"
    lines, section = [f"- {first}", f"+ {second}"], ""
    for difference in found:
        head, *rest = difference.path
        name = ".".join(rest)
        lines.append(f"{head if head != section else '':<14}{name + ': ' if name else ''}{_change(difference)}")
        section = head
    return "\n".join(lines)


def _change(difference: Difference) -> str:
    first, second = difference.first, difference.second
    if difference.path[0] == "files":
        return "only in the first" if second is None else "only in the second" if first is None else "differs"
    text = f"{_shown(first)} -> {_shown(second)}"
    if _is_number(first) and _is_number(second) and first:
        text += f" ({(second - first) / abs(first):+.1%})"
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if _is_number(value):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(field)}" for key, field in value.items())
    return str(value)
