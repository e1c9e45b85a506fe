"""Power by tegrastats: its lines on each Jetson, and a process that writes them."""

from __future__ import annotations

import os
import time

import pytest

from tt_edge.runtime.benchmark.energy import Energy, EnergyMeter, tegrastats_power, tegrastats_rails

#: The forms of lines by device and release; the values are made up.
LINES = {
    # AGX Orin, JetPack 5 and 6: no rail for the whole module.
    "agx-orin": (
        "06-01-2026 10:11:12 RAM 5321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [1%@729,0%@729,off,off] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C GPU@-256C "
        "VDD_GPU_SOC 2000mW/2100mW VDD_CPU_CV 400mW/390mW VIN_SYS_5V0 4000mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 300mW/301mW "
        "NC 0mW/0mW",
        6.4,
        "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
    ),
    # Orin NX and Nano: VDD_IN is the module.
    "orin-nano": (
        "06-01-2026 10:11:12 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729] EMC_FREQ 43%@2133 "
        "GR3D_FREQ 63%@[621] NVDEC off OFA off APE 200 cpu@53.968C tj@53.968C VDD_IN 12500mW/12479mW VDD_CPU_GPU_CV 4660mW/4660mW "
        "VDD_SOC 2817mW/2817mW",
        12.5,
        "VDD_IN",
    ),
    # Thor, JetPack 7: no EMC_FREQ or GR3D_FREQ for some; VIN is the developer kit's input. The GPU's rail can be below zero.
    "thor": (
        "06-01-2026 10:11:12 RAM 17842/125772MB (lfb 79x4MB) CPU [0%@972,0%@972] cpu@30.468C tj@31.218C soc012@30.218C "
        "VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 5040mW/5040mW VIN 16800mW/16802mW",
        16.8,
        "VIN",
    ),
    # Thor, JetPack 7.2: the peak as a third value.
    "thor-7.2": (
        "06-01-2026 10:11:12 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972] cpu@60.406C gpu@62.906C "
        "VDD_GPU 37500mW/37528mW/37528mW VDD_CPU_SOC_MSS 19000mW/18961mW/18961mW VIN_SYS_5V0 18300mW/18331mW/18331mW "
        "VIN 87400mW/43713mW/87426mW",
        87.4,
        "VIN",
    ),
    # A carrier board without a sensor of its input.
    "thor-custom": (
        "RAM 1/2MB CPU [0%@972] VDD_GPU 5517mW VDD_CPU_SOC_MSS 7483mW VIN_SYS_5V0 6000mW",
        19.0,
        "VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0",
    ),
}


@pytest.mark.parametrize("device", LINES)
def test_lines(device):
    line, watts, rails = LINES[device]
    assert tegrastats_power(line) == (pytest.approx(watts), rails)


@pytest.mark.parametrize(
    "line", ["", "RAM 1/2MB CPU [0%@972]", "VDD_GPU_SOC 2000mW/2000mW", "VIN mW", "tegrastats: denied"]
)
def test_lines_without_the_power_of_the_device(line):
    assert tegrastats_power(line) is None


def test_all_rails():
    assert tegrastats_rails(LINES["thor"][0]) == {
        "VDD_GPU": -392,
        "VDD_CPU_SOC_MSS": 5535,
        "VIN_SYS_5V0": 5040,
        "VIN": 16800,
    }


@pytest.fixture
def without_nvml(monkeypatch):
    monkeypatch.setattr("tt_edge.runtime.benchmark.energy._nvml_counter", lambda: None)


def test_a_process_that_writes_lines(tmp_path, monkeypatch, without_nvml):
    tool = tmp_path / "tegrastats"
    lines = f'while :; do echo "{LINES["thor"][0]}"; sleep 0.02; done'
    tool.write_text(f'#!/bin/sh\n[ "$1 $2" = "--interval 100" ] || exit 2\n{lines}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    meter = EnergyMeter()
    meter.start()
    time.sleep(0.4)
    found = meter.stop()
    assert found.watts == pytest.approx(16.8)
    assert 0.1 < found.seconds < 2
    assert found.source == "tegrastats, VIN"


def test_nothing_to_measure_with(tmp_path, monkeypatch, without_nvml):
    monkeypatch.setenv("PATH", str(tmp_path))
    meter = EnergyMeter()
    meter.start()
    assert meter.stop() == Energy(source="neither NVML nor tegrastats answers")
