"""Look at the plugin library of the plugin backend: `tt-edge plugin check` loads it, lists what it registers, and says
which of AttentionPlugin's contracts it has. The installed tensorrt-edgellm package's library is taken unless
--plugin-path names another."""

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
    formats = result.get("formats")
    refused = isinstance(formats, dict) and not all(yes for accepted in formats.values() for yes in accepted.values())
    return 1 if "error" in result or refused else 0


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


def render(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = [f"{result['library']}, looked at with {result['tensorrt']}"]
    if "generation" in result:
        lines.append(
            f"  AttentionPlugin  {result['interface']}, contract {result['generation']}: "
            f"compile with --backend plugin --plugin-contract {result['generation']}"
        )
    if "fields" in result:
        fields = ", ".join(f"{name} {kind}" for name, kind in result["fields"].items())
        lines.append(f"  fields           {fields}")
    if "creators" in result:
        lines.append(f"  {len(result['creators'])} plugins       {', '.join(result['creators'])}")
    lines += [f"  formats          {line}" for line in _formats(result.get("formats"))]
    if "error" in result:
        lines.append(f"  error            {result['error']}")
    return "\n".join(lines)
