"""The manifest: what a bundle is, what is in it, and what is known about it. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

import tt_edge
from tt_edge import strict_json
from tt_edge.bundle.names import MANIFEST_FILE, check_names
from tt_edge.config import CompileConfig
from tt_edge.contract import EngineContract
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.vision_contract import VisionContract

FORMAT_VERSION = 1
#: A manifest is read whole; no real one comes near this many bytes.
MAX_MANIFEST = 16 << 20


class Word(StrEnum):
    """How a claim is known."""

    #: A TensorRT builder accepted the network and produced an engine.
    BUILT = "built"
    #: The captured network's reference evaluation matched Hugging Face.
    EVALUATED = "evaluated"
    #: A GPU ran it.
    EXECUTED = "executed"
    NOT_EXECUTED = "not executed"


class Part(StrEnum):
    """Which network of a bundle: a vision-language model has two."""

    LLM = "llm"
    VISION = "vision"

    def file(self, name: str) -> str:
        """Where a file of this part lies in the bundle."""
        return name if self is Part.LLM else f"{self}/{name}"


class _Record:
    """JSON round trip of a flat dataclass; every field is of its declared type, and there unless it has a default."""

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        if not isinstance(data, Mapping):
            raise BundleError(f"the manifest's {cls.__name__} is {data!r}, not an object; copy the bundle again")
        values = {}
        for f in fields(cls):  # type: ignore[arg-type]
            kind = {"int": int, "float": (int, float), "str": str, "bool": bool}[str(f.type)]
            value = data.get(f.name, None if f.default is MISSING else f.default)
            if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):  # type: ignore[arg-type]
                raise BundleError(
                    f"the manifest's {cls.__name__}.{f.name} is {value!r}, not of type {f.type}; copy the bundle again"
                )
            values[f.name] = value
        return cls(**values)


@dataclass(frozen=True)
class ModelIdentity(_Record):
    """Which model this is. ``config_sha256`` is of the Hugging Face configuration as JSON.

    ``quantization`` says how the checkpoint was quantized, if it was, such as ``awq (4 bits, groups of 128)``.
    """

    architecture: str
    model_type: str
    name: str
    source: str
    parameters: int
    config_sha256: str
    quantization: str = ""


@dataclass(frozen=True)
class EngineRecord(_Record):
    """A serialized engine in the bundle, and where it runs. ``compute_capability`` is such as ``sm89``.

    A ``version_compatible`` engine runs with later TensorRT of the same major version, lean and dispatch runtimes
    included. A ``stripped`` one has no weights: they are put in when it is loaded.
    """

    file: str
    flavour: str
    tensorrt_version: str
    platform: str
    compute_capability: str
    bytes: int
    build_seconds: float
    version_compatible: bool = False
    stripped: bool = False
    part: str = Part.LLM.value

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What decides where the engine runs, and what it is of; a bundle has one engine for each."""
        return self.part, self.flavour, self.tensorrt_version, self.platform, self.compute_capability


@dataclass(frozen=True)
class Evidence(_Record):
    """One claim, the word for how it is known, and by what."""

    claim: str
    word: str
    detail: str

    def __post_init__(self) -> None:
        if self.word not in list(Word):
            raise BundleError(f"evidence word {self.word!r} is not one of {', '.join(Word)}; update tt-edge")


@dataclass(frozen=True)
class FileRecord(_Record):
    """Size in bytes and SHA-256 in hex of one file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0 or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BundleError(
                f"the manifest has a file of size {self.size} and SHA-256 {self.sha256!r}; copy the bundle again"
            )


@dataclass(frozen=True)
class Manifest:
    """Everything that ``manifest.json`` says. ``files`` lists every other file of the bundle by its relative path."""

    model: ModelIdentity
    config: CompileConfig
    contract: EngineContract
    files: Mapping[str, FileRecord]
    engines: tuple[EngineRecord, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    created_by: str = f"tt-edge {tt_edge.__version__}"
    format_version: int = FORMAT_VERSION
    vision: VisionContract | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The networks that the bundle has."""
        return (Part.LLM,) if self.vision is None else (Part.VISION, Part.LLM)

    def contract_of(self, part: Part) -> EngineContract | VisionContract:
        """What engines of ``part`` take and give. Raises ``BundleError`` for a part that is not there."""
        if part is Part.LLM:
            return self.contract
        if self.vision is None:
            raise BundleError("the bundle has no vision network; compile a vision-language model")
        return self.vision

    def engines_of(self, part: Part) -> tuple[EngineRecord, ...]:
        return tuple(engine for engine in self.engines if engine.part == part)

    def to_json(self) -> bytes:
        """``manifest.json``; equal manifests give equal bytes."""
        data = {
            "format_version": self.format_version,
            "created_by": self.created_by,
            "model": asdict(self.model),
            "config": self.config.to_dict(),
            "contract": self.contract.to_dict(),
            **({} if self.vision is None else {"vision": self.vision.to_dict()}),
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
            "engines": [asdict(e) for e in self.engines],
            "evidence": [asdict(e) for e in self.evidence],
        }
        return (json.dumps(data, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse and check ``manifest.json``. Raises ``BundleError`` for a malformed one or one of a newer format."""
        try:
            data = strict_json.loads(content)
        except ValueError as error:
            raise BundleError(f"{MANIFEST_FILE} is not valid JSON ({error}); copy the bundle again") from error
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST_FILE} is not an object; copy the bundle again")
        version = data.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise BundleError(f"{MANIFEST_FILE} has format_version {version!r}, not an integer; copy the bundle again")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"the bundle has format version {version}, this tt-edge reads up to {FORMAT_VERSION}; update tt-edge"
            )
        if version != FORMAT_VERSION:
            raise BundleError(f"the bundle has format version {version}, which never existed; copy the bundle again")
        files, config = data.get("files"), data.get("config")
        if not isinstance(files, dict) or not isinstance(config, dict) or not isinstance(data.get("contract"), dict):
            raise BundleError(f"{MANIFEST_FILE} lacks its files, config or contract; copy the bundle again")
        try:
            checked = CompileConfig.from_dict(config)
        except (InvalidInputError, TypeError, ValueError) as error:
            raise BundleError(f"the manifest's config is wrong ({error}); copy the bundle again") from error
        check_names(files)
        manifest = cls(
            model=ModelIdentity.from_dict(data.get("model")),
            config=checked,
            contract=EngineContract.from_dict(data["contract"]),
            files={name: FileRecord.from_dict(record) for name, record in files.items()},
            engines=tuple(EngineRecord.from_dict(e) for e in _list(data, "engines")),
            evidence=tuple(Evidence.from_dict(e) for e in _list(data, "evidence")),
            created_by=str(data.get("created_by")),
            vision=None if data.get("vision") is None else VisionContract.from_dict(_object(data, "vision")),
        )
        for engine in manifest.engines:
            if engine.file not in manifest.files:
                raise BundleError(
                    f"the manifest's engine {engine.file!r} is not among its files; copy the bundle again"
                )
            if engine.part not in manifest.parts:
                raise BundleError(
                    f"the manifest's engine {engine.file!r} is of a part {engine.part!r}, which the bundle lacks; copy the bundle "
                    "again"
                )
        return manifest


def _object(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data[key]
    if not isinstance(value, Mapping):
        raise BundleError(f"the manifest's {key} is {value!r}, not an object; copy the bundle again")
    return value


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise BundleError(f"the manifest's {key} is {value!r}, not a list; copy the bundle again")
    return value
