"""Look at NVIDIA's plugin library: `tt-edge plugin check` loads it, lists what it registers, and says which of AttentionPlugin's
contracts it has, and whether its ViTAttentionPlugin is one that is known. The installed tensorrt-edgellm package's library is
taken unless --plugin-path names another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("action", choices=["check"], help="check: load the library and read its contract")
    parser.add_argument("--plugin-path", metavar="LIB", help="the library, libNvInfer_edgellm_plugin.so")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Check; the exit status is 1 when the library holds no contract that is known, or refuses what is compiled for it."""
    from tt_edge.plugins.edgellm.check import check_library

    result = check_library(args.plugin_path)
    if args.json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(render(result))
    found = [result, result.get("vit", {})]
    return 1 if any("error" in each or _is_refused(each.get("formats")) for each in found) else 0


def _is_refused(formats: dict[str, dict[str, bool]] | str | None) -> bool:
    return isinstance(formats, dict) and not all(yes for accepted in formats.values() for yes in accepted.values())


def _formats(formats: dict[str, dict[str, bool]] | str | None) -> Iterator[str]:
    """What the plugin said to the types and shapes that are compiled for it, a line a profile."""
    if formats is None:
        return
    if isinstance(formats, str):
        yield formats
        return
    for profile, accepted in formats.items():
        refused = [name for name, yes in accepted.items() if not yes]
        yield f"{profile}: " + (f"REFUSED: {', '.join(refused)}" if refused else f"all {len(accepted)} accepted")


def _field_list(fields: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in fields.items())


def _vit(found: dict[str, Any]) -> Iterator[str]:
    """What was found out about ViTAttentionPlugin."""
    how = "unknown contract" if "error" in found else "compile with --vision-attention plugin"
    yield f"  ViTAttentionPlugin  {how}"
    yield f"  fields           {_field_list(found['fields'])}"
    yield from (f"  formats          {line}" for line in _formats(found.get("formats")))
    if "error" in found:
        yield f"  error            {found['error']}"


def render(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = [f"{result['library']}, looked at with {result['tensorrt']}"]
    if "creators" in result:
        lines.append(f"  {len(result['creators'])} plugins       {', '.join(result['creators'])}")
    if "generation" in result:
        lines.append(
            f"  AttentionPlugin  {result['interface']}, contract {result['generation']}: "
            f"compile with --backend plugin --plugin-contract {result['generation']}"
        )
    if "fields" in result:
        lines.append(f"  fields           {_field_list(result['fields'])}")
    lines += [f"  formats          {line}" for line in _formats(result.get("formats"))]
    if "error" in result:
        lines.append(f"  error            {result['error']}")
    if "vit" in result:
        lines += _vit(result["vit"])
    return "\n".join(lines)
