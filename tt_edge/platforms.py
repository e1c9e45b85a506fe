"""The target platforms of bundles: the TensorRT, CUDA, Python and GPUs of each, and the features of its TensorRT.

``docs/reference/platforms.md`` shows this table. Torch-free. Sources: NVIDIA's release notes of each platform, and the bindings of
each TensorRT, which the tests import.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tt_edge.errors import InvalidInputError
from tt_edge.tensorrt_api import Flavour
from tt_edge.tensorrt_features import FEATURES, Feature, features_of_release, release_of

#: The first release of standard TensorRT with all features that captured networks need, except those that rules replace.
OLDEST = (10, 3)


@dataclass(frozen=True)
class Platform:
    """A device with its software. ``releases`` are its TensorRT versions: one, or the first and last of a range.

    ``compute_capabilities`` is empty if the GPU is not known. ``cuda`` and ``python`` are only for the documentation.
    """

    name: str
    title: str
    releases: tuple[str, ...]
    cuda: str
    python: str
    compute_capabilities: tuple[str, ...]
    flavour: Flavour = Flavour.STANDARD
    note: str = ""

    def features(self, release: str) -> frozenset[Feature]:
        """The features of this platform's TensorRT ``release``."""
        return frozenset(FEATURES) if self.flavour is Flavour.RTX else features_of_release(release)

    @property
    def tensorrt(self) -> str:
        """Such as ``TensorRT 10.16.2`` or ``TensorRT-RTX 1.6 to 1.7``."""
        name = "TensorRT-RTX" if self.flavour is Flavour.RTX else "TensorRT"
        return f"{name} {' to '.join(self.releases)}"


_ALL = ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm120", "sm121")

PLATFORMS: dict[str, Platform] = {
    platform.name: platform
    for platform in (
        Platform("jetpack-6.2", "JetPack 6.2 (Orin)", ("10.3.0",), "12.6", "3.10", ("sm87",)),
        Platform("jetpack-7.1", "JetPack 7.1 (Thor)", ("10.13.3",), "13.0", "3.12", ("sm110",)),
        Platform(
            "jetpack-7.2", "JetPack 7.2 (Thor, Orin)", ("10.16.2",), "13.2", "3.12", ("sm110", "sm87"),
            note="from 7.2.2 on, TensorRT 11.4.1 may be installed: jetpack-7.2+tensorrt-11.4",
        ),
        Platform("drive-os-7.0", "DRIVE OS 7.0 (Thor)", ("10.10",), "13", "3.12", ("sm110",)),
        Platform(
            "drive-os-7.2", "DRIVE OS 7.2.5 and later (Thor)", ("11.0.1",), "13", "3.12", ("sm110",),
            note="on Orin, DRIVE OS 7 has a TensorRT 10: drive-os-7.2+tensorrt-10.13+sm87",
        ),
        Platform("spark", "DGX Spark", ("10.13", "11.4"), "13", "3.12", ("sm121",), note="as installed"),
        Platform("x86", "x86-64 with an NVIDIA GPU", ("10.3", "11.4"), "12, 13", "3.10 to 3.14", _ALL, note="as installed"),
        Platform(
            "rtx", "RTX cards", ("1.6", "1.7"), "12, 13", "3.10 to 3.14",
            ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"), Flavour.RTX, "built ahead of time, on any machine",
        ),
    )
}  # fmt: skip


#: The JetPack that a Jetson Linux release is of. (NVIDIA's Jetson Linux archive; ``nv_tegra_release`` of devices with JetPack
#: 6.2, 7.0 and 7.1.)
JETSON_LINUX: dict[tuple[int, ...], str] = {
    (35, 0): "5",
    (36, 0): "6.0",
    (36, 4): "6.1",
    (36, 4, 3): "6.2",
    (36, 4, 4): "6.2.1",
    (36, 5): "6.2.2",
    (38, 2): "7.0",
    (38, 4): "7.1",
    (39, 0): "7.2",
}


def jetpack_of_jetson_linux(release: str) -> str:
    """``6.2`` of ``36.4.3``: that of the latest release listed which is not later, of the same major number; "" if none is."""
    number = tuple(int(part) for part in release.split("."))
    known = [listed for listed in JETSON_LINUX if listed[0] == number[0] and listed <= number]
    return JETSON_LINUX[max(known)] if known else ""


def parse_platform(text: str) -> Platform:
    """Parse the platform of ``--target``.

    The text is a name from the table or a release such as ``tensorrt-10.13``, followed by differences, each after a plus:
    another TensorRT, or the GPU. Examples: ``jetpack-7.2``, ``jetpack-7.2+tensorrt-11.4``, ``tensorrt-11.4+sm87``. Raises
    ``InvalidInputError``.
    """
    first, *changes = text.strip().lower().split("+")
    if first.startswith("tensorrt-"):
        platform = Platform(text, f"TensorRT {first.removeprefix('tensorrt-')}", (), "", "", ())
        changes.insert(0, first)
    elif first in PLATFORMS:
        platform = replace(PLATFORMS[first], name=text)
    else:
        raise InvalidInputError(
            f"target {text!r} is unknown; give one of {', '.join(PLATFORMS)}, or a release such as tensorrt-10.13"
        )
    for change in changes:
        release = re.fullmatch(r"tensorrt-(\d+\.\d+(\.\d+)*)", change)
        if release:
            if release_of(release[1]) < OLDEST:
                raise InvalidInputError(
                    f"target {text!r} has TensorRT {release[1]}; tt-edge builds with {OLDEST[0]}.{OLDEST[1]} and later"
                )
            if platform.flavour is not Flavour.STANDARD:
                raise InvalidInputError(f"target {text!r} is of TensorRT-RTX; omit +{change}")
            platform = replace(platform, releases=(release[1],))
        elif re.fullmatch(r"sm\d{2,3}", change):
            platform = replace(platform, compute_capabilities=(change,))
        else:
            raise InvalidInputError(
                f"target {text!r} has {change!r}; give a release such as tensorrt-11.4, or a GPU such as sm87"
            )
    return platform
