"""Files of real devices, as far as the doctor reads them, written down from public facts.

Sources: ``nv_tegra_release`` of Jetson Linux 36.4.3, 36.4.7 and 38.2 as owners of devices posted it (the first lines are
verbatim, GCID and date included); the version file of DRIVE OS 7.0.5 with TensorRT 10.14.2; ``dgx-release`` of a DGX Spark
after updates (without its serial number); ``/proc/meminfo`` in the form of proc(5). Numbers of memory are made up.
"""

from __future__ import annotations

from pathlib import Path

_MEMINFO = """MemTotal:       {total} kB
MemFree:        1048576 kB
MemAvailable:   {available} kB
SwapFree:              0 kB
CmaTotal:         262144 kB
CmaFree:          131072 kB
HugePages_Total:      64
HugePages_Free:       60
Hugepagesize:       2048 kB
"""


def _tegra(line: str) -> str:
    return (
        f"{line}\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
        "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    )


def _packages(**versions: str) -> str:
    stanzas = [
        f"Package: {name.replace('_', '-')}\nStatus: install ok installed\nPriority: standard\nArchitecture: arm64\n"
        f"Version: {version}\nDepends: libc6 (>= 2.35)\nDescription: a package\n of several lines: this one\n"
        for name, version in versions.items()
    ]
    removed = "Package: tensorrt\nStatus: deinstall ok config-files\nVersion: 8.5.2.2-1+cuda11.4\n"
    return "\n".join([*stanzas, removed])


TREES: dict[str, dict[str, str]] = {
    "jetpack-6.2": {
        "etc/nv_tegra_release": _tegra(
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
        ),
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_ID="22.04"\n',
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/meminfo": _MEMINFO.format(total=64349404, available=52428800),
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "var/lib/dpkg/status": _packages(nvidia_jetpack="6.2+b77", libnvinfer10="10.3.0.30-1+cuda12.5"),
        "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
    },
    "jetpack-6.2.1, 36.4.7, without the package": {
        "etc/nv_tegra_release": _tegra(
            "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, DATE: Thu Sep 18 22:54:44 UTC 2025"
        ),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/meminfo": _MEMINFO.format(total=7802668, available=5242880),
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
    },
    "jetpack-7.0, Thor": {
        "etc/nv_tegra_release": _tegra(
            "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025"
        ),
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "proc/driver/nvidia/version": (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release Build  (bugfix_main)\n"
        ),
        "proc/meminfo": _MEMINFO.format(total=128817788, available=120000000),
    },
    "container on a Jetson": {
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "var/lib/dpkg/status": _packages(nvidia_l4t_core="36.4.3-20250107174145"),
    },
    "drive-os-7.0.5": {
        "etc/nvidia/version-ubuntu-rootfs.txt": "7.0.5.0-43328940\n",
        "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\n',
        "sys/module/nvidia/version": "580.00\n",
        "var/lib/dpkg/status": _packages(libnvinfer10="10.14.2.2-1+cuda13.0"),
    },
    "dgx-spark": {
        "etc/dgx-release": (
            'DGX_NAME="DGX Spark"\nDGX_PRETTY_NAME="NVIDIA DGX Spark"\nDGX_SWBUILD_VERSION="7.2.3"\n\n'
            'DGX_OTA_VERSION="7.3.1"\nDGX_OTA_DATE="Thu Jan 15 19:07:36 CET 2026"\n\nDGX_OTA_VERSION="7.4.0"\n'
        ),
        "etc/nvidia/version-ubuntu-rootfs.txt": "24.04\n",
        "sys/class/dmi/id/product_name": "NVIDIA_DGX_Spark\n",
        "sys/module/nvidia/version": "580.95.05\n",
    },
    "any other machine": {"etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'},
    "nothing": {},
}


def plant(name: str, root: Path) -> Path:
    """Write the tree ``name`` below ``root``."""
    for path, content in TREES[name].items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root
