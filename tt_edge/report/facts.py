"""The facts of a bundle: the model, its limits, inputs and outputs, layers, bytes, engines, and how each
claim is known. Torch-free.

`tt-edge inspect`, `tt-edge diff` and `tt-edge report` all show these.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tt_edge.bundle.manifest import VISION
from tt_edge.network.inspection import decode_cost, kv_bytes_per_token, parameters_by_dtype
from tt_edge.network.legalize.serving import verdicts
from tt_edge.platforms import PLATFORMS
from tt_edge.proof.evidence import read_beside
from tt_edge.roofline import DEVICES
from tt_edge.runtime.engine.choose import Machine

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

#: Devices of ``tt_edge.roofline`` whose bound by memory bandwidth is shown.
BOUNDS = {"Orin 64GB": "orin-agx", "Thor": "thor", "RTX 4090": "rtx-4090"}


def collect(bundle: Bundle) -> dict[str, Any]:
    """Everything that is shown, JSON-able."""
    manifest = bundle.manifest
    contract, machine = manifest.contract, Machine.detect()
    network = bundle.network() if bundle.has_network else None
    cost = network and decode_cost(network, contract)
    return {
        "created_by": manifest.created_by,
        "format_version": manifest.format_version,
        "model": asdict(manifest.model),
        "config": manifest.config.to_dict(),
        "inputs": [asdict(t) for t in contract.inputs],
        "outputs": [asdict(t) for t in contract.outputs],
        "signed": bundle.is_signed,
        "layers": network and dict(network.kinds().most_common()),
        "weights": network
        and {str(d): {"elements": n, "bytes": b} for d, (n, b) in parameters_by_dtype(network).items()},
        "kv_cache": {
            "tensors": len(contract.kv_cache),
            "in_place": contract.kv_in_place,
            "bytes_per_token": kv_bytes_per_token(contract),
            "bytes_at_capacity": contract.kv_bytes(contract.max_batch),
        },
        "decode": cost
        and {
            "cached_tokens": cost.cached_tokens,
            "weight_bytes": cost.weight_bytes,
            "kv_bytes": cost.kv_bytes,
            "flops": cost.flops,
            "tokens_per_s_at_most": {
                name: round(cost.tokens_per_s(DEVICES[device].bandwidth), 1) for name, device in BOUNDS.items()
            },
        },
        "vision": _vision(bundle),
        "platforms": _platforms(bundle),
        "engines": [asdict(e) | {"does_not_run_here": machine.misfit(e)} for e in manifest.engines],
        "compile_seconds": dict(manifest.compile_seconds),
        "evidence": [asdict(e) for e in (*manifest.evidence, *read_beside(bundle))],
        "files": {name: record.size for name, record in manifest.files.items()},
    }


def _platforms(bundle: Bundle) -> list[dict[str, Any]] | None:
    """For each platform and its TensorRT whether the networks can be built there, in which form, or why not; from their layers."""
    if not bundle.has_network:
        return None
    networks = [bundle.network(part) for part in bundle.manifest.parts]
    return [
        {
            "platform": verdict.platform,
            "tensorrt": verdict.tensorrt,
            "builds": verdict.builds,
            "form": str(verdict.form) if verdict.form is not None else None,
            "reason": verdict.refused,
            "not_on": list(verdict.without),
        }
        for platform in PLATFORMS.values()
        for verdict in verdicts(networks, platform)
    ]


def _vision(bundle: Bundle) -> dict[str, Any] | None:
    """The vision tower of a vision-language model."""
    contract = bundle.manifest.parts.get(VISION)
    if contract is None:
        return None
    network = bundle.network(VISION) if bundle.has_network else None
    return {
        "unit": contract.tower.unit,
        "inputs": [asdict(t) for t in contract.inputs],
        "outputs": [asdict(t) for t in contract.outputs],
        "min_image_tokens": contract.min_image_tokens,
        "max_image_tokens": contract.max_image_tokens,
        "layers": network and dict(network.kinds().most_common()),
        "weights": network
        and {str(d): {"elements": n, "bytes": b} for d, (n, b) in parameters_by_dtype(network).items()},
    }
