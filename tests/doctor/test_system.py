"""Which device and system software a file tree is of."""

from __future__ import annotations

import pytest

from tests.doctor.trees import TREES, plant
from tt_edge.doctor.memory import Memory, free_disk, read_memory
from tt_edge.doctor.software import system_bindings
from tt_edge.doctor.system import jetpack_of, read_packages, read_system

EXPECTED = {
    "jetpack-6.2": ("jetson", "JetPack 6.2 (Jetson Linux 36.4.3)", "36.4.3", "6.2"),
    "jetpack-6.2.1, 36.4.7, without the package": ("jetson", "JetPack 6.2.1 (Jetson Linux 36.4.7)", "36.4.7", "6.2.1"),
    "jetpack-7.0, Thor": ("jetson", "JetPack 7.0 (Jetson Linux 38.2.0)", "38.2.0", "7.0"),
    "container on a Jetson": ("jetson", "JetPack 6.2 (Jetson Linux 36.4.3)", "36.4.3", "6.2"),
    "drive-os-7.0.5": ("drive", "DRIVE OS 7.0.5.0", "7.0.5.0", ""),
    "dgx-spark": ("dgx", "DGX OS 7.4.0 (DGX Spark)", "7.4.0", ""),
    "any other machine": ("other", "Debian GNU/Linux 12 (bookworm)", "", ""),
    "nothing": ("other", "unknown Linux", "", ""),
}


@pytest.mark.parametrize("name", TREES)
def test_systems(name, tmp_path):
    system = read_system(plant(name, tmp_path))
    assert (system.kind, system.name, system.release, system.jetpack) == EXPECTED[name]
    assert system.is_device == (system.kind != "other")


def test_models_and_drivers(tmp_path):
    thor = read_system(plant("jetpack-7.0, Thor", tmp_path / "thor"))
    assert (thor.model, thor.driver) == ("NVIDIA Jetson AGX Thor Developer Kit", "580.00")
    spark = read_system(plant("dgx-spark", tmp_path / "spark"))
    assert (spark.model, spark.driver) == ("NVIDIA_DGX_Spark", "580.95.05")
    assert read_system(plant("jetpack-6.2", tmp_path / "orin")).driver == "", "its driver is part of the kernel"


def test_packages(tmp_path):
    system = read_system(plant("jetpack-6.2", tmp_path))
    assert system.packages == {"nvidia-jetpack": "6.2+b77", "libnvinfer10": "10.3.0.30-1+cuda12.5"}, (
        "not what was removed"
    )
    assert read_packages("") == {}
    assert read_packages("garbage\n\nPackage: tensorrt\nno colon here") == {}


@pytest.mark.parametrize(
    ("release", "installed", "jetpack"),
    [
        ("36.4.4", "", "6.2.1"),
        ("36.4.0", "", "6.1"),
        ("36.9", "", "6.2.2"),
        ("39.2.1", "", "7.2"),
        ("38.4.0", "", "7.1"),
        ("99.1", "", ""),
        ("36.4.7", "6.2.1+b38", "6.2.1"),
    ],
)
def test_jetpacks(release, installed, jetpack):
    assert jetpack_of(release, {"nvidia-jetpack": installed}) == jetpack


def test_memory(tmp_path):
    memory = read_memory(plant("jetpack-6.2", tmp_path))
    assert (memory.total, memory.available) == (64349404 << 10, 52428800 << 10)
    assert (memory.huge_page, memory.huge_pages, memory.huge_pages_free) == (2 << 20, 64, 60)
    assert (memory.cma_total, memory.cma_free) == (256 << 20, 128 << 20)
    assert memory.transparent == "madvise"
    assert read_memory(tmp_path / "nowhere") == Memory()


def test_disk_of_a_folder_that_is_to_come(tmp_path):
    assert free_disk(tmp_path / "not" / "yet") > 0


def test_bindings_that_this_python_does_not_see(tmp_path):
    assert system_bindings(plant("jetpack-6.2", tmp_path)) == "/usr/lib/python3.10/dist-packages"
    assert system_bindings(tmp_path / "nowhere") is None
