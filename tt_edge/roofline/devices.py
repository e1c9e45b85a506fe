"""Published memory bandwidth and peak by type of the devices that are predicted. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tt_edge.errors import InvalidInputError
from tt_edge.roofline.operations import Math


@dataclass(frozen=True)
class Device:
    """A device. ``bandwidth`` in GB/s; ``peak`` in dense TFLOPS (TOPS for INT8), without sparsity and without DLA.

    ``calibration`` multiplies every predicted time; ``fitted_on`` says which published figure it was fitted on. 1.0 and
    empty where nothing was fitted.
    """

    name: str
    title: str
    bandwidth: float
    peak: Mapping[Math, float]
    source: str
    calibration: float = 1.0
    fitted_on: str = ""

    def tflops(self, math: Math) -> float:
        """Raises ``InvalidInputError`` for a type in which the device's tensor cores do not multiply."""
        if math not in self.peak:
            raise InvalidInputError(
                f"{self.title} does not multiply in {math} (it has {', '.join(self.peak)}); choose another format or device"
            )
        return self.peak[math]


def _ampere(fp16: float) -> dict[Math, float]:
    return {Math.FP16: fp16, Math.INT8: 2 * fp16}


_ALL = [
    # 2,070 FP4 TFLOPS with sparsity; each wider type has half of it.
    Device(
        "thor",
        "Jetson AGX Thor (T5000)",
        273.0,
        {Math.FP16: 258.75, Math.FP8: 517.5, Math.INT8: 517.5, Math.FP4: 1035.0},
        "Jetson Thor datasheet: 273 GB/s; 2,070 TFLOPS sparse FP4",
        calibration=0.895,
        fitted_on="Qwen3-4B nvfp4 decode",
    ),
    # 170 sparse INT8 TOPS of the GPU, the rest of the 275 is DLA.
    Device(
        "orin-agx",
        "Jetson AGX Orin 64 GB",
        204.8,
        _ampere(42.5),
        "Jetson AGX Orin datasheet: 204.8 GB/s; 170 sparse INT8 TOPS (GPU)",
        calibration=1.026,
        fitted_on="Qwen3-4B int4_awq decode",
    ),
    Device(
        "orin-nx",
        "Jetson Orin NX 16 GB",
        102.4,
        _ampere(15.0),
        "Jetson Orin NX datasheet: 102.4 GB/s; 60 sparse INT8 TOPS (GPU, 25 W)",
    ),
    Device(
        "orin-nano",
        "Jetson Orin Nano 8 GB",
        68.0,
        _ampere(10.0),
        "Jetson Orin Nano datasheet: 68 GB/s; 40 sparse INT8 TOPS (15 W)",
    ),
    Device(
        "orin-nano-super",
        "Jetson Orin Nano Super 8 GB",
        102.0,
        _ampere(16.75),
        "Jetson Orin Nano Super datasheet: 102 GB/s; 67 sparse INT8 TOPS (25 W)",
    ),
    Device(
        "spark",
        "DGX Spark (GB10)",
        273.0,
        {Math.FP16: 125.0, Math.FP8: 250.0, Math.INT8: 250.0, Math.FP4: 500.0},
        "DGX Spark datasheet: 273 GB/s; 1 PFLOPS sparse FP4",
        calibration=1.054,
        fitted_on="Qwen3-4B nvfp4 decode",
    ),
    Device(
        "rtx-4090",
        "GeForce RTX 4090",
        1008.0,
        {Math.FP16: 165.2, Math.FP8: 330.3, Math.INT8: 660.6},
        "NVIDIA Ada GPU architecture paper: 1,008 GB/s; 165.2 FP16, 330.3 FP8 (FP32 accumulation)",
    ),
    Device(
        "rtx-5090",
        "GeForce RTX 5090",
        1792.0,
        {Math.FP16: 209.5, Math.FP8: 419.0, Math.INT8: 838.0, Math.FP4: 1676.0},
        "NVIDIA RTX Blackwell architecture paper: 1,792 GB/s; 209.5 FP16, 419 FP8 (FP32 accumulation), 1,676 FP4",
    ),
    Device(
        "h100",
        "H100 SXM",
        3350.0,
        {Math.FP16: 989.4, Math.FP8: 1978.9, Math.INT8: 1978.9},
        "H100 datasheet: 3.35 TB/s; 1,979 FP16, 3,958 FP8 with sparsity",
    ),
    Device(
        "h200",
        "H200 SXM",
        4800.0,
        {Math.FP16: 989.4, Math.FP8: 1978.9, Math.INT8: 1978.9},
        "H200 datasheet: 4.8 TB/s; 1,979 FP16, 3,958 FP8 with sparsity",
    ),
]

#: Devices by the name that the command line takes.
DEVICES: dict[str, Device] = {device.name: device for device in _ALL}


def find_device(name: str) -> Device:
    """Raises ``InvalidInputError`` for a device that is not in the table."""
    if name not in DEVICES:
        raise InvalidInputError(f"device {name!r} is not known; choose from {', '.join(DEVICES)}")
    return DEVICES[name]
