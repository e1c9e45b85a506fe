"""Replacing files in one step, wherever that is done: whole in every state that a kill leaves, and nothing left behind."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bundle.crashes import states
from tests.models.decoders import compiled
from tt_edge.atomic import replace_file, replacing
from tt_edge.bundle.keys import new_key, read_private_key, read_public_keys
from tt_edge.folder import Folder
from tt_edge.runtime.engine.kv_rows import KVPrefix, region
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache
from tt_edge.runtime.scheduling.prefix_file import load_prefixes, save_prefixes

MODEL = b"m" * 32


def prefixes(tokens: tuple[int, ...]) -> PrefixCache:
    _, contract = compiled()
    places = {pair.past: region(contract.input(pair.past), contract, 0) for pair in contract.kv_cache}
    shapes = {name: (place.runs, len(tokens), place.token_bytes) for name, place in places.items()}
    cache = PrefixCache()
    cache.add(KVPrefix(tokens, {name: np.ones(shape, np.uint8) for name, shape in shapes.items()}))
    return cache


def test_a_file_such_as_a_timing_cache(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    replace_file(folder / "cache", b"old")
    with states(folder, tmp_path / "copies") as found:
        replace_file(folder / "cache", b"new" * 1000)
    seen = set()
    for state in found:
        seen.add((state / "cache").read_bytes()[:3])
        replace_file(state / "cache", b"next")
        assert os.listdir(state) == ["cache"]
    assert seen == {b"old", b"new"}


def test_saved_prefixes(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    _, contract = compiled()
    save_prefixes(prefixes((1, 2, 3)), folder / "p", MODEL)
    with states(folder, tmp_path / "copies") as found:
        save_prefixes(prefixes((4, 5)), folder / "p", MODEL)
    seen = set()
    for state in found:
        seen.add(load_prefixes(state / "p", MODEL, contract)[0].token_ids)
        save_prefixes(prefixes((6,)), state / "p", MODEL)
        assert os.listdir(state) == ["p"]
    assert seen == {(1, 2, 3), (4, 5)}


def test_a_pair_of_keys(tmp_path):
    """A key that is there is whole, and the secret one never stands without the public one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with states(folder, tmp_path / "copies") as found:
        new_key(str(folder / "k"))
    assert len(found) > 4
    for state in found:
        private, public = state / "k.private.pem", state / "k.public.pem"
        if private.exists():
            assert private.stat().st_mode & 0o777 == 0o600
            assert public.exists()
            read_private_key(private)
        if public.exists():
            assert len(read_public_keys(public)) == 1
        new_key(str(state / "other"))
        assert not [path for path in state.iterdir() if path.name.startswith(".other")]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, error):
    replace_file(tmp_path / "f", b"old")

    def interrupted() -> None:
        with replacing(Folder.open(tmp_path), "f") as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_an_exclusive_file_replaces_nothing(tmp_path):
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), replacing(Folder.open(tmp_path), "f", exclusive=True) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["f"]


_HOLD = """
import sys
from pathlib import Path
from tt_edge.atomic import replacing
from tt_edge.folder import Folder
with replacing(Folder.open(Path(sys.argv[1])), "f") as file:
    file.write(b"theirs")
    print("written", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_what_another_process_writes_is_its_own_until_it_ends(tmp_path, killed):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], **pipes)
    assert other.stdout.readline() == "written\n"
    replace_file(tmp_path / "f", b"ours")
    assert len(os.listdir(tmp_path)) == 2
    if killed:
        other.kill()
    other.communicate("\n", timeout=30)
    assert (tmp_path / "f").read_bytes() == (b"ours" if killed else b"theirs")
    replace_file(tmp_path / "f", b"ours again")
    assert os.listdir(tmp_path) == ["f"]


def test_links_in_the_way_are_not_followed(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    (folder / f".f.partial-{'0f' * 8}").symlink_to(outside)
    (folder / "f").symlink_to(outside / "mine")
    replace_file(Path(folder / "f"), b"new")
    assert (outside / "mine").read_bytes() == b"mine"
    assert os.listdir(folder) == ["f"]
    assert not (folder / "f").is_symlink()


#: Modules that write files in other ways, and why that is right.
OTHER_WRITERS = {
    "tt_edge/folder.py": "creates the files of bundles, for tt_edge/atomic.py and the writer of bundles",
    "tt_edge/atomic.py": "is how files are replaced",
    "tt_edge/runtime/benchmark/memory.py": "tells the kernel to forget its peak of memory",
    "tt_edge/evaluation/record.py": "only grows, under a lock; a line that is cut off is asked again",
    "lowering/dump.py": "dumps graphs to be looked at",
    "plugins/cuda/build.py": "renames what nvcc has written",
}


def test_every_file_of_the_product_is_replaced_in_one_step():
    """So the crash points above are those of each file: caches, evidence, golden sets, keys, signatures."""
    root, found = Path(__file__).parent.parent, set()
    for folder in ("tt_edge", "lowering", "plugins"):
        for path in (root / folder).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if any(_writes(node) for node in ast.walk(ast.parse(path.read_bytes()))):
                found.add(name)
    assert found <= OTHER_WRITERS.keys(), found - OTHER_WRITERS.keys()


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    if name in ("open", "io.open") or name.endswith(".open"):
        modes = [a.value for a in [*node.args[:2], *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wxa+") and set(mode) <= set("rwxabt+") for mode in modes)
    own = ("writer.", "self._writer.", "self.writer.")  # of bundles
    return name in ("os.rename", "os.replace", "np.save", "np.savez", "json.dump", "shutil.move", "shutil.copy") or (
        name.endswith((".write_text", ".write_bytes")) and not name.startswith(own)
    )
