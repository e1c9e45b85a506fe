"""Building a captured network in the newest form that the installed TensorRT has and accepts. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tt_edge.contract import IOContract, ShapeRange
from tt_edge.errors import EngineError
from tt_edge.network.build import EngineBuild, build_engine
from tt_edge.network.build_io import Progress, Writable
from tt_edge.network.build_options import BuildOptions
from tt_edge.network.ir import Network
from tt_edge.network.legalize.contract import in_form, limits_in_form
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import forms, legalize
from tt_edge.tensorrt_api import TensorRT
from tt_edge.tensorrt_features import features_of

Profiles = Sequence[Mapping[str, ShapeRange]]


@dataclass(frozen=True)
class LegalBuild:
    """An engine, the form of its network, its contract, and the builder's messages about newer forms."""

    build: EngineBuild
    form: Form
    contract: IOContract
    refused: tuple[str, ...]


def build_legal(
    tensorrt: TensorRT,
    network: Network,
    contract: IOContract,
    profiles: Callable[[IOContract], Profiles],
    target: str | None,
    destination: Writable,
    *,
    progress: Progress | None = None,
    options: BuildOptions | None = None,
) -> LegalBuild:
    """Build ``network`` as ``build_engine`` does, in the newest form that the builder accepts.

    ``profiles`` returns the optimization profiles for a contract. That contract may differ from the bundle's: in some forms
    the KV cache passes through the network, and calls take fewer tokens. Raises the first form's ``EngineError`` when all
    are refused.
    """
    counting = _Counting(destination)
    name = f"{tensorrt.flavour} {tensorrt.version}"
    errors: list[EngineError] = []
    for available in forms(network, features_of(tensorrt.module)):
        legal = legalize(network, available, name)
        own = in_form(contract, legal.form, limits_in_form(contract, legal.form, network))
        try:
            built = build_engine(
                tensorrt, legal.network, profiles(own), target, counting, progress=progress, options=options
            )
        except EngineError as error:
            if counting.written:  # written bytes cannot be undone, so no other form can be tried
                raise
            errors.append(error)
        else:
            return LegalBuild(built, legal.form, own, tuple(str(error) for error in errors))
    raise errors[0]


class _Counting:
    """Wraps a file that is only written to, and counts the bytes."""

    def __init__(self, file: Writable) -> None:
        self.file, self.written = file, 0

    def write(self, data: Any) -> int:
        self.written += memoryview(data).nbytes
        return self.file.write(data)
