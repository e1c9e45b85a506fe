"""The libraries of plugins and kernels. `tt-edge plugin build` compiles tt-edge's CUDA kernels with nvcc, for the GPU that is
here or for --arch, and the TensorRT plugins around them where TensorRT's headers are; no GPU is needed. `tt-edge plugin check`
loads NVIDIA's plugin library, lists what it registers, and says which of AttentionPlugin's contracts it has, and whether its
ViTAttentionPlugin is one that is known; the installed tensorrt-edgellm package's library is taken unless one is named. Given
tt-edge's kernels or plugins, it says whether they fit, and lists each creator with its contract and fields."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "action", choices=["build", "check"], help="build the kernels, or load a library and look at it"
    )
    parser.add_argument("library", nargs="?", metavar="LIB", help="check: the library, as --plugin-path")
    parser.add_argument("--plugin-path", metavar="LIB", help="check: the library, libNvInfer_edgellm_plugin.so")
    parser.add_argument("--json", action="store_true", help="check: print the result as JSON")
    parser.add_argument(
        "--arch",
        action="append",
        metavar="SM",
        help="build: a GPU architecture, such as sm_87; repeat for more (default: the GPU here)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="LIB", help="build: the library (default: in the user's cache folder)"
    )
    parser.add_argument(
        "--trt-include",
        type=Path,
        metavar="DIR",
        help="build: TensorRT's headers, for its plugins (default: JetPack's)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="build: compilers at a time (default: as many as processors)"
    )


def run(args: argparse.Namespace) -> int:
    """Build, or check: then the exit status is 1 when the library holds no contract that is known, or refuses what is
    compiled for it."""
    return _build(args) if args.action == "build" else _check(args)


def _build(args: argparse.Namespace) -> int:
    from tt_edge.plugins.cuda.build import architecture, architecture_here, build_kernels, find_headers
    from tt_edge.plugins.edgellm.own_library import default_library

    architectures = list(dict.fromkeys(map(architecture, args.arch))) if args.arch else [architecture_here()]
    headers = find_headers(args.trt_include)
    for library in build_kernels(architectures, args.output or default_library(), args.jobs, headers):
        size = library.stat().st_size >> 20
        print(f"{library}  for {', '.join(f'sm_{each}' for each in architectures)}, {size} MiB")
    if headers is None:
        print("no TensorRT plugins: they need TensorRT's headers, --trt-include DIR")
    return 0


def _check(args: argparse.Namespace) -> int:
    from tt_edge.plugins.edgellm.check import check_library
    from tt_edge.plugins.edgellm.own_library import is_own

    path = args.plugin_path or args.library
    if path and is_own(Path(path)):
        return _check_own(Path(path), args.json)
    result = check_library(path)
    if args.json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(render(result))
    found = [result, result.get("vit", {})]
    return 1 if any("error" in each or _is_refused(each.get("formats")) for each in found) else 0


def _check_own(library: Path, as_json: bool) -> int:
    """Look at tt-edge's own kernels and plugins. Raises ``EngineError`` for another version of the kernels."""
    from tt_edge import tensorrt_api
    from tt_edge.plugins.cuda.library import VERSION, Kernels
    from tt_edge.plugins.edgellm.check import check_library
    from tt_edge.plugins.edgellm.own_library import has_plugins

    Kernels(library)
    result: dict[str, Any] = {"library": str(library), "kernels": VERSION}
    if has_plugins(library) and tensorrt_api.installed():
        result |= check_library(library)
    if as_json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(render_own(result))
    return 1 if "error" in result else 0


def render_own(result: dict[str, Any]) -> str:
    """The result for tt-edge's own library in a few lines."""
    lines = [f"{result['library']}, tt-edge's kernels, version {result['kernels']}: they fit this tt-edge"]
    if "tensorrt" in result:
        lines.append(f"  looked at with {result['tensorrt']}")
    for plugin in result.get("plugins", []):
        name = "::".join(filter(None, [plugin["namespace"], plugin["name"]]))
        contract = plugin.get("contract")
        how = f"contract {contract}: compile with --backend plugin --plugin-contract {contract}" if contract else ""
        lines += [f"  {name:<24} {how}".rstrip(), f"    {_field_list(plugin['fields']) or 'no fields'}"]
    if "error" in result:
        lines.append(f"  error            {result['error']}")
    return "\n".join(lines)


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
