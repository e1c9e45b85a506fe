"""The manifest: a bundle's identity, its contents, and the evidence for it. Torch-free."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Final

import tt_edge
from tt_edge import strict_json
from tt_edge.bundle.names import MANIFEST_FILE, check_names
from tt_edge.compat import Self, StrEnum
from tt_edge.config import CompileConfig, Limits
from tt_edge.contract import IOContract
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.network.legalize.form import Form

FORMAT_VERSION = 3
#: Size limit in bytes: a manifest is read whole, and real ones are much smaller.
MAX_MANIFEST = 16 << 20
MAX_VALUES = 100_000


class Word(StrEnum):
    """The kind of evidence for a claim."""

    #: A TensorRT builder accepted the network and produced an engine.
    BUILT = "built"
    #: The captured network's reference evaluation matched Hugging Face.
    EVALUATED = "evaluated"
    #: A GPU ran it.
    EXECUTED = "executed"
    #: It was compared with Hugging Face, and did not match.
    FAILED = "failed"
    NOT_EXECUTED = "not executed"


#: Names of the standard parts. Any lower-case name is allowed.
DECODER: Final = "decoder"
VISION: Final = "vision"
ENCODER: Final = "encoder"
_PART_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def part_file(part: str, name: str) -> str:
    """The relative path of a part's file in the bundle."""
    return f"{part}/{name}"


class _Record:
    """JSON round trip of a flat dataclass. Checks that fields have their declared types; a field without default is required."""

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
    """The identity of the model. ``config_sha256`` is the hash of the Hugging Face configuration as JSON.

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

    A ``version_compatible`` engine runs with later TensorRT releases of the same major version, including the lean and
    dispatch runtimes. A ``stripped`` one has no weights: they are added when it is loaded. ``form`` says which of the
    network's layers were replaced by older ones. ``max_input_len`` is the number of new tokens per slot and call, and
    ``max_image_tokens`` that of image tokens per call of a tower, if lower than the contract's (0: the contract's); see
    ``tt_edge.network.legalize``.
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
    part: str = DECODER
    form: str = "captured"
    max_input_len: int = 0
    max_image_tokens: int = 0

    def __post_init__(self) -> None:
        try:
            Form.parse(self.form)
        except ValueError as error:
            raise BundleError(
                f"the manifest's engine {self.file!r} has an unknown form ({error}); update tt-edge"
            ) from None
        if (least := min(self.max_input_len, self.max_image_tokens)) < 0:
            raise BundleError(f"the manifest's engine {self.file!r} takes {least} tokens a call; copy the bundle again")

    def limits(self, contract: IOContract) -> Limits:
        """The limits of this engine of a part with ``contract``."""
        return contract.limits.narrowed(self.max_input_len, self.max_image_tokens)

    @property
    def replaced(self) -> str:
        """What stands in it for the layers of the captured network, such as ``; matrix multiplies and a softmax``; else empty."""
        form = Form.parse(self.form)
        return f"; {form}" if form.replaced else ""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """The engine's identity: its part and where it runs. A bundle has one engine for each key."""
        return self.part, self.flavour, self.tensorrt_version, self.platform, self.compute_capability


@dataclass(frozen=True)
class Evidence(_Record):
    """One claim, the kind of evidence for it, and the details."""

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
    """The contents of ``manifest.json``.

    ``parts`` are the compiled networks by name, in the order in which they are built. ``files`` lists every other file of the
    bundle by its relative path. ``compile_seconds`` are by stage of the compile, as far as it was when the manifest was written.
    """

    model: ModelIdentity
    config: CompileConfig
    parts: Mapping[str, IOContract]
    files: Mapping[str, FileRecord]
    engines: tuple[EngineRecord, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    compile_seconds: Mapping[str, float] = field(default_factory=dict)
    created_by: str = f"tt-edge {tt_edge.__version__}"
    format_version: int = FORMAT_VERSION

    def part(self, name: str) -> IOContract:
        """The contract of a part. Raises ``BundleError`` if the bundle has no such part."""
        try:
            return self.parts[name]
        except KeyError:
            hint = "; compile a vision-language model" if name == VISION else "; compile the model again"
            raise BundleError(
                f"the bundle has no part {name!r} (it has {', '.join(self.parts) or 'none'}){hint}"
            ) from None

    @property
    def contract(self) -> IOContract:
        """The decoder's contract."""
        return self.part(DECODER)

    @property
    def takes_source(self) -> bool:
        """Whether the bundle is of an encoder-decoder, whose answers have a source."""
        return ENCODER in self.parts

    @property
    def takes_images(self) -> bool:
        """Whether there is a vision tower."""
        return VISION in self.parts

    def engines_of(self, part: str) -> tuple[EngineRecord, ...]:
        return tuple(engine for engine in self.engines if engine.part == part)

    def to_json(self) -> bytes:
        """``manifest.json``; equal manifests give equal bytes."""
        data = {
            "format_version": self.format_version,
            "created_by": self.created_by,
            "model": asdict(self.model),
            "config": self.config.to_dict(),
            "parts": {name: contract.to_dict() for name, contract in self.parts.items()},
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
            "engines": [asdict(e) for e in self.engines],
            "evidence": [asdict(e) for e in self.evidence],
            "compile_seconds": dict(self.compile_seconds),
        }
        return (json.dumps(data, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse and check ``manifest.json``. Raises ``BundleError`` for a malformed one or one of a newer format."""
        try:
            data = strict_json.loads(content, MAX_VALUES)
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
        if version < 1:
            raise BundleError(f"the bundle has format version {version}, which never existed; copy the bundle again")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"the bundle has format version {version}, and this tt-edge reads {FORMAT_VERSION}; compile it again: "
                f"tt-edge compile {_source_of(data)} -o OUT"
            )
        files, config, parts = (data.get(key) for key in ("files", "config", "parts"))
        if not isinstance(files, dict) or not isinstance(config, dict) or not isinstance(parts, dict):
            raise BundleError(f"{MANIFEST_FILE} lacks its files, config or parts; copy the bundle again")
        try:
            checked = CompileConfig.from_dict(config)
        except (InvalidInputError, TypeError, ValueError) as error:
            raise BundleError(f"the manifest's config is wrong ({error}); copy the bundle again") from error
        check_names(files)
        manifest = cls(
            model=ModelIdentity.from_dict(data.get("model")),
            config=checked,
            parts={_part_name(name): _part(name, contract) for name, contract in parts.items()},
            files={name: FileRecord.from_dict(record) for name, record in files.items()},
            engines=tuple(EngineRecord.from_dict(e) for e in _list(data, "engines")),
            evidence=tuple(Evidence.from_dict(e) for e in _list(data, "evidence")),
            compile_seconds=_seconds(data.get("compile_seconds", {})),
            created_by=str(data.get("created_by")),
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


def _source_of(data: Mapping[str, Any]) -> str:
    """The source that a bundle was compiled from, quoted as a command-line argument."""
    model = data.get("model")
    source = model.get("source") if isinstance(model, Mapping) else None
    return shlex.quote(source) if isinstance(source, str) and source.isprintable() and source else "CHECKPOINT"


def _part_name(name: str) -> str:
    if not _PART_NAME.fullmatch(name):
        raise BundleError(f"the manifest has a part {name!r}, which is not a name; copy the bundle again")
    return name


def _part(name: str, contract: Any) -> IOContract:
    if not isinstance(contract, Mapping):
        raise BundleError(f"the manifest's part {name!r} is {contract!r}, not an object; copy the bundle again")
    return IOContract.from_dict(contract)


def _seconds(value: Any) -> dict[str, float]:
    """Seconds by stage of a compile; bundles of before it was recorded have none."""
    is_number = isinstance(value, dict) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1e9 for v in value.values()
    )
    if not is_number:
        raise BundleError(f"the manifest's compile_seconds is {value!r}, not seconds by stage; copy the bundle again")
    return {name: float(seconds) for name, seconds in value.items()}


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise BundleError(f"the manifest's {key} is {value!r}, not a list; copy the bundle again")
    return value
