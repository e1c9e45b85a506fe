"""Whether a bundle's networks can be built on a platform, in which form, and why not. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tt_edge.config import CompileConfig, KVCacheType
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Network
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.network.plugins import KINDS
from tt_edge.platforms import Platform
from tt_edge.tensorrt_api import Flavour
from tt_edge.tensorrt_features import FP4

#: The lowest compute capability that supports an element type; other types are supported by all.
FIRST_CAPABILITY: dict[DType, int] = {DType.BFLOAT16: 80, DType.INT4: 80, DType.FP8: 89, DType.FP4: 100}

#: The element types of a quantization that some GPUs lack.
_OF_FORMAT = {
    "fp8": {DType.FP8}, "nvfp4": {DType.FP4, DType.FP8}, "int4_awq": {DType.INT4}, "int4_wo": {DType.INT4},
}  # fmt: skip


_NO_PLUGINS = "TensorRT-RTX has no plugins; compile with --backend native, or build with standard TensorRT"


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle builds on a platform with one of its TensorRT releases, as predicted without building.

    ``refused`` says why the bundle does not build there; if it is empty, the bundle builds in ``form``. ``without`` names
    GPUs of the platform that lack an element type of the networks.
    """

    platform: str
    tensorrt: str
    form: Form | None
    refused: str = ""
    without: tuple[str, ...] = ()

    @property
    def builds(self) -> bool:
        return not self.refused


def lacking_type(types: Iterable[DType], capability: str) -> str:
    """Why a GPU such as ``sm75`` does not support one of these element types; empty if it supports all."""
    number = int(capability.removeprefix("sm"))
    for dtype in sorted(types, key=str):
        if number < FIRST_CAPABILITY.get(dtype, 0):
            return f"{dtype} needs compute capability sm{FIRST_CAPABILITY[dtype]} or later, not {capability}"
    return ""


def check_types(types: Iterable[DType], platform: Platform) -> None:
    """Raise ``EngineError`` if no GPU of ``platform`` supports all of ``types``."""
    reasons = [lacking_type(types, capability) for capability in platform.compute_capabilities]
    if reasons and all(reasons):
        raise EngineError(
            f"{platform.name} cannot serve the bundle: {reasons[0]}; compile in another precision or format, or omit "
            f"--target {platform.name}"
        )


def check_config(config: CompileConfig, platform: Platform) -> None:
    """Raise ``EngineError`` if the configuration alone says that ``platform`` cannot serve the bundle."""
    types = types_of_config(config)
    check_types(types, platform)
    otherwise = f"or omit --target {platform.name}"
    for release in platform.releases if DType.FP4 in types else ():
        if FP4 not in platform.features(release):
            raise EngineError(
                f"{platform.name} (TensorRT {release}) cannot serve the bundle: it lacks {FP4.what}, which {FP4.release} is "
                f"the first to have; compile in another format, {otherwise}"
            )
    if config.needs_plugins and platform.flavour is Flavour.RTX:
        raise EngineError(f"{platform.name} cannot serve the bundle: {_NO_PLUGINS}, {otherwise}")


def types_of_config(config: CompileConfig) -> frozenset[DType]:
    """The element types that a compile will use, as far as its configuration determines them."""
    types = {config.network.precision.dtype}
    formats = () if config.quantization.recipe is None else config.quantization.recipe.formats
    for format in formats:
        types |= _OF_FORMAT.get(str(format), set())
    if config.attention.kv_cache is KVCacheType.FP8:
        types.add(DType.FP8)
    return frozenset(types)


def require_served(networks: Sequence[Network], platform: Platform) -> None:
    """Raise ``EngineError`` with the reason if ``platform`` cannot build ``networks``."""
    for verdict in verdicts(networks, platform):
        if verdict.refused:
            raise EngineError(
                f"{platform.name} ({verdict.tensorrt}) cannot serve the bundle: {verdict.refused}; or omit "
                f"--target {platform.name}"
            )


def types_of(networks: Iterable[Network]) -> frozenset[DType]:
    """The element types of all tensors."""
    return frozenset(tensor.dtype for network in networks for tensor in network.tensors.values())


def verdicts(networks: Sequence[Network], platform: Platform) -> list[Verdict]:
    """One verdict for each TensorRT release of the platform."""
    types = types_of(networks)
    reasons = {sm: reason for sm in platform.compute_capabilities if (reason := lacking_type(types, sm))}
    found = []
    for release in platform.releases:
        name = f"{'TensorRT-RTX' if platform.flavour is Flavour.RTX else 'TensorRT'} {release}"
        form, refused = None, ""
        try:
            legal = [legalize(network, platform.features(release), name) for network in networks]
            form = Form(frozenset().union(*(each.form.replaced for each in legal)))
        except EngineError as error:
            refused = str(error)
        if platform.flavour is Flavour.RTX and any(
            layer.kind in KINDS for network in networks for layer in network.layers
        ):
            refused = _NO_PLUGINS
        if reasons and len(reasons) == len(platform.compute_capabilities):
            refused = next(iter(reasons.values()))
        found.append(Verdict(platform.name, name, None if refused else form, refused, tuple(reasons)))
    return found
