"""Readers of bundle files return or raise the project's own errors, whatever they are given."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.tiny_checkpoint import make_tokenizer
from tests.bundle.making import write_bundle
from tests.fuzz import test_requests
from tests.fuzz.conftest import FUZZ, FUZZERS, refused
from tests.fuzz.mutations import byte_mutations, mutated, mutated_bytes, mutations
from tests.models.decoders import compiled
from tests.runtime.text.test_chat_template import CHAT, TEMPLATES, TOOLS
from tests.runtime.text.test_template_sandbox import EXPRESSIONS, STATEMENTS
from tt_edge import strict_json
from tt_edge.bundle import Bundle, Manifest
from tt_edge.bundle.manifest import DECODER
from tt_edge.errors import TTEdgeError
from tt_edge.folder import CheckedFile, Folder
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.ir import Network
from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE, read_network, read_weights
from tt_edge.runtime.engine.kv_rows import KVPrefix, region
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache
from tt_edge.runtime.scheduling.prefix_file import load_prefixes, save_prefixes
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import BundleTokenizer, read_json

COMPILED = compiled()
GENERATION = {"eos_token_id": [1, 2], "do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}


class Memory(dict[str, bytes]):
    """Files of a bundle by name."""

    has = dict.__contains__
    read_bytes = dict.__getitem__


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "bundle"
    write_bundle(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Memory:
    """A tokenizer's files."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    found = Memory({path.name: path.read_bytes() for path in folder.iterdir()})
    return Memory(found, **{"generation_config.json": json.dumps(GENERATION).encode()})


@contextlib.contextmanager
def in_place_of(file: Path, content: bytes):
    original = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(original)


def read_folder(path: Path) -> Network:
    folder = Folder.open(path)
    return read_network(folder.file(NETWORK_FILE), folder.file(WEIGHTS_FILE))


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


@FUZZ
@given(byte_mutations)
def test_strict_json_is_a_part_of_json(mutation):
    content = mutated(b'{"a": [1, -2.5e3, "\\u00fc\\ud83d\\ude97", {"b": null, "c": true}], "d": "x"}', mutation)
    with contextlib.suppress(ValueError):
        assert strict_json.loads(content) == json.loads(content)


@FUZZ
@given(mutations)
def test_manifest(bundle, mutation):
    content = mutated((bundle / "manifest.json").read_bytes(), mutation)
    with refused():
        again = Manifest.from_json(content)
        assert Manifest.from_json(again.to_json()) == again


@FUZZ
@given(mutations)
def test_opening_a_bundle(bundle, mutation):
    manifest = bundle / "manifest.json"
    before = [entry for entry in listing(bundle.parent) if entry[0] != str(manifest)]
    with in_place_of(manifest, mutated(manifest.read_bytes(), mutation)), refused():
        opened = Bundle.open(bundle)
        opened.verify()
        for name in opened.manifest.files:
            assert opened.file(name).path.resolve().is_relative_to(bundle.resolve())
        opened.network()
    assert [entry for entry in listing(bundle.parent) if entry[0] != str(manifest)] == before


@FUZZ
@given(mutations)
def test_network(bundle, mutation):
    file = bundle / DECODER / NETWORK_FILE
    with in_place_of(file, mutated(file.read_bytes(), mutation)), refused():
        read_folder(bundle / DECODER).weight_bytes()


def with_header(file: Path, mutation) -> bytes:
    """The safetensors file with its header mutated, in a frame that fits again."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = mutated(content[8 : 8 + length], mutation)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read_through(path: Path) -> None:
    for array in read_weights(CheckedFile.open(path)).values():
        assert array.nbytes <= path.stat().st_size
        np.max(array.reshape(-1).view(np.uint8), initial=0)


def mutated_start(content: bytes, seed: int, count: int) -> bytes:
    """With the length of the header and the beginning of the header mutated."""
    return mutated_bytes(content[:1024], seed, count) + content[1024:]


@FUZZ
@given(mutations, st.booleans())
def test_weights(bundle, mutation, in_header):
    file = bundle / DECODER / WEIGHTS_FILE
    content = with_header(file, mutation) if in_header else mutated_start(file.read_bytes(), *mutation[1:])
    with in_place_of(file, content), refused():
        read_through(file)


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory) -> Path:
    _, contract = COMPILED
    cache = PrefixCache()
    for tokens in ((1, 2, 3), (4, 5)):
        places = {pair.past: region(contract.input(pair.past), contract, row=0) for pair in contract.kv_cache}
        shapes = {name: (place.runs, len(tokens), place.token_bytes) for name, place in places.items()}
        cache.add(KVPrefix(tokens, {name: np.ones(shape, np.uint8) for name, shape in shapes.items()}))
    path = tmp_path_factory.mktemp("prefixes") / "prefixes"
    save_prefixes(cache, path, b"m" * 32)
    assert len(load_prefixes(path, b"m" * 32, contract)) == 2
    return path


@FUZZ
@given(mutations)
def test_prefixes(prefixes, mutation):
    _, contract = COMPILED
    with in_place_of(prefixes, with_header(prefixes, mutation)), refused():
        for prefix in load_prefixes(prefixes, b"m" * 32, contract):
            assert all(0 <= token < contract.vocab_size for token in prefix.token_ids)


TOKENIZER_FILES = ["tokenizer.json"] * 3 + [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
]


@FUZZ
@given(st.sampled_from(TOKENIZER_FILES), mutations)
def test_tokenizer(files, name, mutation):
    edited = Memory(files, **{name: mutated(files.get(name, b'{"eos_token": {"content": "</s>"}}'), mutation)})
    with refused():
        tokenizer = BundleTokenizer.from_bundle(edited)
        tokenizer.decode(tokenizer.encode("Is the light grün? <|end|> 🚗"))
        tokenizer.decode([0, 1, 10_000, 2**32 - 1])


SOURCES = [
    *TEMPLATES.values(),
    *STATEMENTS.values(),
    *("{{ " + line + " }}" for line in EXPRESSIONS.strip().splitlines()),
]


@FUZZ
@given(st.sampled_from(SOURCES), byte_mutations)
def test_chat_template(source, mutation):
    with refused():
        template = ChatTemplate.from_bundle(Memory({"chat_template.jinja": mutated(source.encode(), mutation)}), {})
        assert isinstance(template.render(CHAT, tools=TOOLS), str)


@FUZZ
@given(mutations, mutations)
def test_settings(mutation, other):
    entry = json.dumps({"chat_template": [{"name": "default", "template": "{{ messages[0].role }}"}]}).encode()
    edited = {"tokenizer_config.json": mutated(entry, mutation)}
    edited["generation_config.json"] = mutated(json.dumps(GENERATION).encode(), other)
    with refused():
        if template := ChatTemplate.from_bundle(Memory(edited), {}):
            template.render(CHAT)
    with refused():
        GenerationConfig.of_checkpoint(read_json(Memory(edited), "generation_config.json"))


def test_claims_of_size_allocate_nothing(bundle, tmp_path):
    """A kilobyte that claims to be a terabyte costs no more than itself."""
    entries = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header = json.dumps(entries).encode()
    hostile: list[Callable[[], object]] = []
    for name, content in {
        "entry": len(header).to_bytes(8, "little") + header,
        "header": (1 << 62).to_bytes(8, "little") + header,
        "no header": b"\xff" * 7,
    }.items():
        (tmp_path / name).write_bytes(content)
        hostile.append(lambda name=name: read_weights(CheckedFile.open(tmp_path / name)))
    shape = json.loads((bundle / DECODER / NETWORK_FILE).read_bytes())
    for entry in shape["tensors"].values():
        entry[1] = [1 << 47] * 8
    (tmp_path / NETWORK_FILE).write_text(json.dumps(shape))
    (tmp_path / WEIGHTS_FILE).write_bytes((bundle / DECODER / WEIGHTS_FILE).read_bytes())
    hostile.append(lambda: read_folder(tmp_path))
    tracemalloc.start()
    try:
        for read in hostile:
            with pytest.raises(TTEdgeError):
                read()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_every_fuzzer_has_its_share():
    fuzzers = [f for f in (*globals().values(), *vars(test_requests).values()) if hasattr(f, "hypothesis")]
    assert len(fuzzers) == FUZZERS


def test_what_is_mutated_is_valid(bundle, files):
    assert Bundle.open(bundle).verify() == []
    assert len(read_weights(CheckedFile.open(bundle / DECODER / WEIGHTS_FILE))) > 0
    assert BundleTokenizer.from_bundle(files).eos_token_ids == (1, 2)
