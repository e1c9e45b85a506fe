"""Look at the plugin library of the plugin backend: `tt-edge plugin check` loads it, lists what it registers, and says
which of AttentionPlugin's contracts it has. The installed tensorrt-edgellm package's library is taken unless
--plugin-path names another."""

from __future__ import annotations

import argparse
from typing import Any


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("action", choices=["check"], help="check: load the library and read its contract")
    parser.add_argument("--plugin-path", metavar="LIB", help="the library, libNvInfer_edgellm_plugin.so")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Check; the exit status is 1 when the library holds no contract that is known."""
    from tt_edge.plugins.edgellm.check import check_library

    result = check_library(args.plugin_path)
    if args.json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(render(result))
    return 1 if "error" in result else 0


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
    if "error" in result:
        lines.append(f"  error            {result['error']}")
    else:
        lines.append(
            "  formats          not asked: supportsFormatCombination cannot be called from Python; not executed"
        )
    return "\n".join(lines)
