"""Everything that reads what others wrote, each as a function of a seed: what the long run gives its inputs to.

``TARGETS`` are by name. Each is called once in a worker, with an empty folder, and returns what takes a seed.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.bundle.making import write_bundle
from tests.bundle.test_update import add
from tests.fuzz import hostile_bundles
from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.fuzz.structures import mutated_network
from tests.fuzz.workers import Run
from tests.models.decoders import compiled
from tt_edge import strict_json, tensorrt_api
from tt_edge.bundle import Bundle, Evidence, Manifest
from tt_edge.bundle.manifest import DECODER
from tt_edge.bundle.update import record_evidence
from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.folder import CheckedFile, Folder
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.inspection import parameters_by_dtype
from tt_edge.network.ir import Network
from tt_edge.network.rebuild import rebuild
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.storage import WEIGHTS_FILE, network_json, parse_network, read_weights
from tt_edge.network.validate import validate

CONTENT = b'{"a": [1, -2.5e3, "\\u00fc\\ud83d\\ude97", {"b": null, "c": true}], "d": "x"}'


def _mutated(content: bytes, seed: int) -> bytes:
    """Of bytes or of JSON, as the seed says."""
    how = mutated_bytes if seed % 3 == 0 else mutated_json
    return how(content, seed, 1 + seed % 5)


def json_text(_: Path) -> Run:
    def run(seed: int) -> None:
        content = mutated_bytes(CONTENT, seed, 1 + seed % 5)
        try:
            value = strict_json.loads(content)
        except ValueError:
            return
        assert value == json.loads(content)

    return run


def manifest(folder: Path) -> Run:
    write_bundle(folder / "b")
    content = (folder / "b" / "manifest.json").read_bytes()

    def run(seed: int) -> None:
        again = Manifest.from_json(_mutated(content, seed))
        assert Manifest.from_json(again.to_json()) == again

    return run


def _hostile_network(network: Network, content: bytes, seed: int) -> Network:
    try:
        data = strict_json.loads(mutated_network(content, seed, 1 + seed % 2) if seed % 4 else _mutated(content, seed))
    except ValueError as error:
        raise InvalidInputError(f"refused as JSON: {error}") from error
    hostile = parse_network(data)
    hostile.weights = network.weights
    validate(hostile)
    return hostile


def network(_: Path) -> Run:
    """Parsed, validated, its sizes added up."""
    made = compiled()[0]
    content = network_json(made)

    def run(seed: int) -> None:
        _hostile_network(made, content, seed).weight_bytes()

    return run


def evaluator(_: Path) -> Run:
    """Taken by the reference evaluator, and run where it is."""
    made, contract = compiled()
    content = network_json(made)
    sizes = {"batch": 1, "sequence": 2}

    def run(seed: int) -> None:
        hostile = _hostile_network(made, content, seed)
        feeds = {
            s.name: np.zeros(s.resolve(**sizes), s.dtype.numpy) for s in contract.inputs if s.name in hostile.inputs
        }
        ReferenceEvaluator(hostile).run(feeds)

    return run


def bindings(_: Path) -> Run:
    """Given to TensorRT's own ``add_*`` calls: these may end the process."""
    from tests.network.networks import NETWORKS
    from tests.network.test_capture import build
    from tt_edge.network.capture import capture

    tensorrt = tensorrt_api.load()
    seeds = []
    for name, add_layers in NETWORKS.items():
        builder, definition = build(tensorrt, add_layers)
        captured = capture(tensorrt, definition, name)
        weights = {key: np.array(array) for key, array in captured.weights.items()}
        del builder
        seeds.append(
            (
                Network(name, captured.inputs, captured.outputs, captured.tensors, captured.layers, weights),
                network_json(captured),
            )
        )

    def run(seed: int) -> None:
        captured, content = seeds[seed % len(seeds)]
        rebuild(tensorrt, _hostile_network(captured, content, seed))

    return run


def weights(folder: Path) -> Run:
    write_bundle(folder / "b")
    content = (folder / "b" / DECODER / WEIGHTS_FILE).read_bytes()
    length, file = int.from_bytes(content[:8], "little"), folder / "w"

    def run(seed: int) -> None:
        header = _mutated(content[8 : 8 + length], seed)
        frame = len(header) if seed % 5 else Random(seed).choice([0, 1, len(header) + 1, 2**63, 2**64 - 1])
        file.write_bytes(frame.to_bytes(8, "little") + header + content[8 + length :])
        for array in read_weights(CheckedFile.open(file)).values():
            np.max(array.reshape(-1).view(np.uint8), initial=0)

    return run


def bundle(folder: Path) -> Run:
    """A hostile bundle, opened, verified, evaluated, changed; and nothing outside it is."""
    pristine, hostile, outside = folder / "pristine", folder / "hostile", folder / "outside"
    write_bundle(pristine)
    hostile_bundles.remember(pristine)
    outside.mkdir()
    (outside / "canary").write_bytes(b"canary")
    before = _listing(outside)

    def run(seed: int) -> None:
        shutil.rmtree(hostile, ignore_errors=True)
        shutil.copytree(pristine, hostile)
        hostile_bundles.mutate(hostile, outside, seed)
        try:
            use_bundle(hostile)
        finally:
            if _listing(outside) != before or sorted(p.name for p in folder.iterdir()) != [
                "hostile",
                "outside",
                "pristine",
            ]:
                found = _listing(outside)
                shutil.rmtree(outside)
                outside.mkdir()
                (outside / "canary").write_bytes(b"canary")
                raise AssertionError(f"something outside the bundle was changed: {found}")

    return run


def use_bundle(path: Path) -> None:
    """All that is done with a bundle without a GPU, writing included; the first refusal of reading is what is raised."""
    refusal = None
    try:
        opened = Bundle.open(path)
        opened.verify()
        for part in opened.manifest.parts:
            parameters_by_dtype(opened.network(part))
        _generate(opened)
    except TTEdgeError as error:
        refusal = error
    for write in (lambda: record_evidence(Folder.open(path), Evidence("c", "evaluated", "d")), lambda: add(path)):
        with suppress(OSError, TTEdgeError):  # such as a manifest that is a folder: a line on the command line
            write()
    if refusal is not None:
        raise refusal


def _generate(opened: Bundle) -> None:
    """Two steps, and a copy between slots: where sizes that do not agree would reach past a buffer."""
    from tt_edge.runtime.engine.choose import open_part

    with open_part(opened, runtime="reference") as session:
        batch = min(session.contract.max_batch, 4)
        session.reset(batch)
        session.forward(np.ones((batch, 3), np.int64), np.full(batch, 3))
        session.write_kv(batch - 1, session.read_kv(0, [1, 1, 1]))


def _listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((p.name, p.read_bytes()) for p in folder.iterdir())


class _Files(dict[str, bytes]):
    """Files of a bundle by name."""

    has = dict.__contains__
    read_bytes = dict.__getitem__


def tokenizer(folder: Path) -> Run:
    from examples.tiny_checkpoint import make_tokenizer
    from tt_edge.runtime.text.tokenizer import BundleTokenizer

    make_tokenizer().save_pretrained(folder / "t")
    files = {path.name: path.read_bytes() for path in (folder / "t").iterdir()}
    names = ["tokenizer.json", "tokenizer.json", "tokenizer_config.json"]

    def run(seed: int) -> None:
        name = names[seed % 3]
        made = BundleTokenizer.from_bundle(_Files(files, **{name: _mutated(files[name], seed)}))
        made.decode(made.encode("Is the light grün? <|end|> 🚗"))
        made.decode([0, 1, 10_000, 2**32 - 1])

    return run


def chat_template(_: Path) -> Run:
    from tests.runtime.text.test_chat_template import CHAT, TEMPLATES, TOOLS
    from tests.runtime.text.test_template_sandbox import EXPRESSIONS, STATEMENTS
    from tt_edge.runtime.text.chat_template import ChatTemplate

    lines = ["{{ " + line + " }}" for line in EXPRESSIONS.strip().splitlines()]
    sources = [*TEMPLATES.values(), *STATEMENTS.values(), *lines]

    def run(seed: int) -> None:
        source = mutated_bytes(sources[seed % len(sources)].encode(), seed, 1 + seed % 4)
        ChatTemplate.from_bundle(_Files({"chat_template.jinja": source}), {}).render(CHAT, tools=TOOLS)

    return run


def settings(_: Path) -> Run:
    from tt_edge.runtime.text.tokenizer import read_json

    content = json.dumps(
        {"eos_token_id": [1, 2], "do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
    ).encode()

    def run(seed: int) -> None:
        files = _Files({"generation_config.json": _mutated(content, seed)})
        GenerationConfig.of_checkpoint(read_json(files, "generation_config.json"))

    return run


def requests(_: Path) -> Run:
    from pydantic import ValidationError

    from tests.fuzz.test_requests import CHAT, COMPLETION
    from tt_edge.server.errors import ApiError
    from tt_edge.server.parsing import schemas

    bodies: list[tuple[Any, bytes]] = [
        (schemas.ChatRequest, json.dumps(CHAT).encode()),
        (schemas.CompletionRequest, json.dumps(COMPLETION).encode()),
    ]

    def run(seed: int) -> None:
        kind, body = bodies[seed % 2]
        try:
            request = kind.model_validate_json(_mutated(body, seed))
            request.config(GenerationConfig(), 1, None)
        except ValidationError as error:
            raise InvalidInputError("refused by its schema") from error
        except ApiError as error:
            raise InvalidInputError(f"refused: {error}") from error

    return run


def images(_: Path) -> Run:
    from PIL import Image

    from tt_edge.runtime.multimodal.images.load import pixels_of

    random, files = np.random.default_rng(0), []
    for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK"):
        pixels = Image.fromarray(random.integers(0, 255, (12, 17, 3), np.uint8)).convert(mode)
        for name in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
            stream = io.BytesIO()
            try:
                pixels.save(stream, name)
            except (OSError, ValueError):  # a format that lacks the mode
                continue
            files.append(stream.getvalue())

    def run(seed: int) -> None:
        array = pixels_of(mutated_bytes(files[seed % len(files)], seed, 1 + seed % 6))
        assert array.dtype == np.uint8
        assert array.ndim == 3

    return run


#: By name: the target, and its share of a run in percent. Those that take longest come last, and get the time that is left.
TARGETS: dict[str, tuple[Callable[[Path], Run], int]] = {
    "JSON": (json_text, 14),
    "settings": (settings, 14),
    "manifest": (manifest, 18),
    "image": (images, 10),
    "network, TensorRT's calls": (bindings, 4),
    "weights": (weights, 10),
    "request": (requests, 9),
    "chat template": (chat_template, 8),
    "network": (network, 6),
    "network, evaluated": (evaluator, 2),
    "tokenizer": (tokenizer, 4),
    "bundle, used and changed": (bundle, 1),
}
