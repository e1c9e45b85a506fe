"""Bundles that mean harm: a whole one, with a few mutations of its files, its manifest, and what its files say.

Where a mutation changes a file, the manifest is mostly made to fit again, as somebody would who wants the file to be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.fuzz.structures import NUMBERS, mutated_network

NAMES = [
    *("../outside/canary", "/etc/passwd", "engines/../../outside/canary", "CONFIG.JSON", "config.json ", "conﬁg.json"),
    *("Manifest.json", "manifest.sig", "e\u0301", "é", ".", "..", "", "a//b", "./config.json", "engines", "con\x00fig"),
    *("a\x1b[2J", "\ud800", "x" * 300, ".manifest.json.partial", "\u202enosj.gifnoc"),
]

#: Names that tt-edge writes, or cleans up.
TRAPS = [
    *("engines/.new.partial-" + "0f" * 8, ".manifest.json.partial", ".manifest.json.partial-" + "0f" * 8),
    *("engines/x.engine", "manifest.sig", "engines/a"),
]


def mutate(bundle: Path, outside: Path, seed: int) -> None:
    """Make the bundle hostile. ``outside`` is a folder that nothing may reach, with a file ``canary`` in it."""
    random = Random(seed)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        with suppress(ValueError, LookupError, TypeError, RecursionError):  # what an earlier one made impossible
            random.choice(MUTATIONS)(random, bundle, outside)


def change_contract(r: Random, bundle: Path, _: Path) -> None:
    """Sizes, names and types of the contract: caches too small, limits too large, tensors doubled or swapped."""
    data = _manifest(bundle)
    contract = r.choice(_contracts(data))
    tensors = [*contract["inputs"], *contract["outputs"]]
    tensor = r.choice(tensors)
    match r.randrange(6):
        case 0:
            key = r.choice([k for k, v in _leaves(contract) if isinstance(v, int)] or [()])
            _put(contract, key, r.choice(NUMBERS))
        case 1 if tensor["shape"]:
            tensor["shape"][r.randrange(len(tensor["shape"]))] = r.choice([*NUMBERS, "batch", "sequence", "x", None])
        case 2:
            tensor["name"] = r.choice(tensors)["name"]
        case 3:
            tensor["dtype"] = r.choice(tensors)["dtype"]
        case 4 if contract.get("kv_cache"):
            r.choice(contract["kv_cache"])[r.choice(["past", "present"])] = r.choice(tensors)["name"]
        case _:
            capacity = r.choice([1, 2, 47])
            for each in tensors:
                if each["name"].startswith(("past_", "present_")) and len(each["shape"]) > 2:
                    each["shape"][2] = capacity
    _write(bundle, data)


def change_limits(r: Random, bundle: Path, _: Path) -> None:
    data = _manifest(bundle)
    limits = [k for k, _ in _leaves(data) if k and str(k[-1]).startswith("max_")]
    for _ in range(2):
        _put(data, r.choice(limits), r.choice([0, 1, 10**6, 2**31, 2**40, -1, True, 1.5, None]))
    _write(bundle, data)


def change_files(r: Random, bundle: Path, _: Path) -> None:
    """Listed names and hashes are swapped, doubled under other names, or names that lead elsewhere."""
    data = _manifest(bundle)
    files, names = data["files"], list(data["files"])
    one, other = r.choice(names), r.choice(names)
    match r.randrange(5):
        case 0:
            files[one], files[other] = files[other], files[one]
        case 1:
            files[r.choice(NAMES)] = files[one]
        case 2:
            files[r.choice(NAMES)] = files.pop(one)
        case 3:
            files[one]["size"] = r.choice(NUMBERS)
        case _:
            files.update({f"f{i}": files[one] for i in range(r.choice([10, 600, 5_000]))})
    _write(bundle, data)


def change_engines(r: Random, bundle: Path, _: Path) -> None:
    data = _manifest(bundle)
    engine = dict(r.choice(data["engines"]))
    engine[r.choice(list(engine))] = r.choice([*data["files"], *NAMES, *NUMBERS, "vision", "llm", "decoder", True])
    data["engines"] = r.choice([[engine], [engine, engine], [*data["engines"], engine]])
    _write(bundle, data)


def swap_files(r: Random, bundle: Path, _: Path) -> None:
    """Two files take each other's places, and the manifest agrees."""
    data = _manifest(bundle)
    # Those of the folder itself: an earlier mutation may have listed names that lead out of it.
    found = [path.relative_to(bundle).as_posix() for path in sorted(bundle.rglob("*")) if _is_small(path)]
    one, other = r.sample([name for name in found if name in data["files"]], 2)
    kept = (bundle / one).read_bytes()
    shutil.copy(bundle / other, bundle / one)
    (bundle / other).write_bytes(kept)
    data["files"][one], data["files"][other] = data["files"][other], data["files"][one]
    _write(bundle, data)


def change_network(r: Random, bundle: Path, _: Path) -> None:
    file = r.choice(sorted(bundle.rglob("network.json")) or [bundle / "config.json"])
    if file.name == "network.json" and _is_small(file):
        _refit(bundle, file, mutated_network(file.read_bytes(), r.randrange(2**63), r.choice([1, 1, 2])))


def change_weights(r: Random, bundle: Path, _: Path) -> None:
    """The header: tensors that overlap, reach outside the file, occur twice, or have other types and shapes."""
    for file in filter(_is_small, bundle.rglob("weights.safetensors")):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = mutated_json(content[8 : 8 + length], r.randrange(2**63), 1)
        _refit(bundle, file, len(header).to_bytes(8, "little") + header + content[8 + length :])


def change_bytes(r: Random, bundle: Path, _: Path) -> None:
    file = r.choice([p for p in sorted(bundle.rglob("*")) if _is_small(p)])
    content = mutated_bytes(file.read_bytes(), r.randrange(2**63), 2)
    _refit(bundle, file, content) if r.random() < 0.5 else file.write_bytes(content)


def change_text(r: Random, bundle: Path, _: Path) -> None:
    """What no JSON value says: keys twice, numbers of many digits, deep nesting."""
    file = bundle / "manifest.json"
    if not _is_small(file):
        return
    text = file.read_text()
    at = text.find("{", r.randrange(len(text))) + 1
    more = r.choice(
        [
            '"files": {}, ',
            '"x": ' + "9" * 5_000 + ", ",
            '"x": ' + "[" * 5_000,
            '"x": NaN, ',
            '"format_version": 1, ' * 2,
        ]
    )
    file.write_text(text[:at] + more + text[at:])


def replace_by_no_file(r: Random, bundle: Path, outside: Path) -> None:
    """A link, a pipe, a folder, a file of holes in the place of a file or a folder."""
    path = r.choice(sorted(bundle.rglob("*")))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    match r.randrange(5):
        case 0:
            path.symlink_to(r.choice([outside / "canary", outside, "/dev/zero", "nowhere", path.name]))
        case 1:
            os.mkfifo(path)
        case 2:
            path.mkdir()
        case 3:
            with path.open("wb") as file:
                file.truncate(r.choice([1 << 30, 1 << 40]))
            data = _manifest(bundle)
            if (name := path.relative_to(bundle).as_posix()) in data.get("files", {}):
                data["files"][name]["size"] = path.stat().st_size
                _write(bundle, data)
        case _:
            pass  # it is missing


def add_traps(r: Random, bundle: Path, outside: Path) -> None:
    """Links and pipes under the names that tt-edge writes, or cleans up."""
    for name in r.sample(TRAPS, 3):
        path = bundle / name
        if path.parent.is_dir() and not path.parent.is_symlink() and not os.path.lexists(path):
            os.mkfifo(path) if r.random() < 0.2 else path.symlink_to(r.choice([outside / "canary", outside]))


def link_folder(_: Random, bundle: Path, outside: Path) -> None:
    if (bundle / "engines").is_dir() and not (bundle / "engines").is_symlink():
        shutil.rmtree(bundle / "engines")
        (bundle / "engines").symlink_to(outside)


MUTATIONS: list[Callable[[Random, Path, Path], None]] = [
    change_contract, change_contract, change_limits, change_files, change_engines, swap_files, change_network, change_network,
    change_weights, change_bytes, change_text, replace_by_no_file, replace_by_no_file, add_traps, link_folder,
]  # fmt: skip


def _manifest(bundle: Path) -> dict[str, Any]:
    """The manifest, or an empty one where an earlier mutation broke it."""
    file = bundle / "manifest.json"
    try:
        data = json.loads(file.read_bytes()) if _is_small(file) else {}
    except (ValueError, RecursionError):
        data = {}
    whole = isinstance(data, dict) and data.get("files") and data.get("engines")
    return data if whole else json.loads(_PRISTINE["manifest"])


def _is_small(file: Path) -> bool:
    """Whether a mutation can read it: an earlier one may have made a link of it, or a file of a terabyte of holes."""
    return file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 26


_PRISTINE: dict[str, bytes] = {}


def remember(bundle: Path) -> None:
    """Keep the manifest of the bundle that is mutated, for mutations after one that broke it."""
    _PRISTINE["manifest"] = (bundle / "manifest.json").read_bytes()


def _write(bundle: Path, data: Any) -> None:
    file = bundle / "manifest.json"
    if not os.path.lexists(file) or (file.is_file() and not file.is_symlink()):
        file.write_text(json.dumps(data))


def _refit(bundle: Path, file: Path, content: bytes) -> None:
    """Write a file, and the manifest with its size and hash."""
    file.write_bytes(content)
    data, name = _manifest(bundle), file.relative_to(bundle).as_posix()
    if name in data["files"]:
        data["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write(bundle, data)


def _contracts(data: dict[str, Any]) -> list[dict[str, Any]]:
    found = [value for key, value in data.items() if isinstance(value, dict) and "inputs" in value]
    return [*found, *data.get("parts", {}).values()]


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(data, dict | list):
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        return [leaf for key, value in pairs for leaf in _leaves(value, (*path, key))]
    return [(path, data)]


def _put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    if path:
        data[path[-1]] = value
