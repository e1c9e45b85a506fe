"""Which device and operating system this is: Jetson Linux and JetPack, DRIVE OS, DGX OS, or any other Linux."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tt_edge.doctor.files import assignments, read_text
from tt_edge.platforms import PLATFORMS, jetpack_of_jetson_linux

Kind = Literal["jetson", "drive", "dgx", "other"]

#: Packages whose versions are worth knowing, by the beginning of their names.
_PACKAGES = (
    "nvidia-jetpack",
    "nvidia-l4t-core",
    "nvidia-l4t-cuda",
    "libnvinfer",
    "python3-libnvinfer",
    "tensorrt",
    "cuda-cudart",
    "cuda-runtime",
)


@dataclass(frozen=True)
class System:
    """The device and its system software. "" where something does not apply or is not known.

    ``release`` is the number of Jetson Linux, DRIVE OS or DGX OS; ``driver`` the version of the NVIDIA kernel module;
    ``packages`` are Debian packages of NVIDIA's that are installed, by name.
    """

    kind: Kind
    name: str
    release: str = ""
    jetpack: str = ""
    model: str = ""
    driver: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_device(self) -> bool:
        """Whether it is a machine that always has an NVIDIA GPU."""
        return self.kind != "other"

    @property
    def target(self) -> str:
        """The name of this system in the table of platforms; "" if it is not there."""
        number = ".".join((self.jetpack or self.release).split(".")[:2])
        names = {
            "jetson": f"jetpack-{number}",
            "drive": f"drive-os-{number}",
            "dgx": "spark" if "Spark" in self.name else "",
        }
        name = names.get(self.kind, "")
        return name if name in PLATFORMS else ""


def read_system(root: Path = Path("/")) -> System:
    """Look at the files below ``root``."""
    packages = read_packages(read_text(root, "var/lib/dpkg/status"))
    model = read_text(root, "proc/device-tree/model") or read_text(root, "sys/class/dmi/id/product_name")
    common = {"model": model, "driver": read_driver(root), "packages": packages}
    distribution = assignments(read_text(root, "etc/os-release")).get("PRETTY_NAME", "")
    if release := read_jetson_linux(read_text(root, "etc/nv_tegra_release"), packages):
        jetpack = jetpack_of(release, packages)
        name = f"JetPack {jetpack or 'unknown'} (Jetson Linux {release})"
        return System("jetson", name, release, jetpack, **common)  # type: ignore[arg-type]
    dgx = assignments(read_text(root, "etc/dgx-release"))
    if dgx:
        release = dgx.get("DGX_OTA_VERSION") or dgx.get("DGX_SWBUILD_VERSION", "")
        return System("dgx", f"DGX OS {release} ({dgx.get('DGX_NAME', 'DGX')})", release, **common)  # type: ignore[arg-type]
    # Such as "7.0.5.0-43328940".
    drive = re.match(r"\d+(\.\d+)+", read_text(root, "etc/nvidia/version-ubuntu-rootfs.txt"))
    if drive:
        return System("drive", f"DRIVE OS {drive[0]}", drive[0], **common)  # type: ignore[arg-type]
    return System("other", distribution or "unknown Linux", **common)  # type: ignore[arg-type]


def read_jetson_linux(tegra_release: str, packages: Mapping[str, str]) -> str:
    """The Jetson Linux release, such as ``36.4.3``, of ``# R36 (release), REVISION: 4.3, …`` or else of the core package.

    Containers on a Jetson often lack the file, and have the package.
    """
    if match := re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", tegra_release):
        return f"{match[1]}.{match[2]}".rstrip(".")
    core = re.match(r"\d+(\.\d+)*", packages.get("nvidia-l4t-core", ""))
    return core[0] if core else ""


def jetpack_of(release: str, packages: Mapping[str, str]) -> str:
    """The JetPack version: that of its package (``6.2.1+b38``), or what the Jetson Linux release came with."""
    installed = re.match(r"\d+(\.\d+)+", packages.get("nvidia-jetpack", ""))
    if installed:
        return installed[0]
    return jetpack_of_jetson_linux(release)


def read_driver(root: Path) -> str:
    """The NVIDIA kernel module's version, such as ``580.95.05``; Jetson Linux before 38 has none of its own."""
    version = read_text(root, "sys/module/nvidia/version")
    if version:
        return version
    match = re.search(
        r"Kernel Module[^\d]*(?:for \S+\s+)?(\d+(?:\.\d+)+)", read_text(root, "proc/driver/nvidia/version")
    )
    return match[1] if match else ""


def read_packages(status: str) -> dict[str, str]:
    """Versions of NVIDIA's installed packages from the text of dpkg's database."""
    found = {}
    for stanza in status.split("\n\n"):
        if not stanza.startswith("Package: "):
            continue
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        name = fields["Package"]
        if name.startswith(_PACKAGES) and fields.get("Status", "").endswith(" installed"):
            found[name] = fields.get("Version", "")
    return found
