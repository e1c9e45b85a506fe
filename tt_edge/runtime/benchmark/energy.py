"""Energy while a benchmark runs: by NVML on GPUs that count it, by tegrastats on Jetson, where either answers."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

#: ``VDD_IN 5112mW/5080mW``: now, and the mean so far; newer releases add the peak, or leave all but the first out. Unloaded rails
#: can be read as slightly negative.
_RAIL = re.compile(r"\b((?:VDD|VIN|POM|VDDQ)\w*) (-?\d+)mW")
#: The rail that holds the whole device, in order of preference: the input of a Thor developer kit, of an Orin NX or Nano module.
_WHOLE = ("VIN", "VDD_IN")
#: Rails that together are an AGX Orin module, or a Thor module without its input's sensor. VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0.
_PARTS = (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))
_INTERVAL_MS = 100


@dataclass(frozen=True)
class Energy:
    """``joules`` over ``seconds``, idle power included; ``None`` where nothing measures it. ``source`` says by what, or why not."""

    joules: float | None = None
    seconds: float = 0.0
    source: str = "not measured"

    @property
    def watts(self) -> float | None:
        """The mean power."""
        return None if self.joules is None or not self.seconds else self.joules / self.seconds


def tegrastats_rails(line: str) -> dict[str, int]:
    """Milliwatts by power rail, of a line of tegrastats."""
    return {name: int(value) for name, value in _RAIL.findall(line)}


def tegrastats_power(line: str) -> tuple[float, str] | None:
    """Watts of the device, and the rails that they are of; ``None`` for a line without rails that are known."""
    rails = tegrastats_rails(line)
    for name in _WHOLE:
        if name in rails:
            return rails[name] / 1e3, name
    for names in _PARTS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names) / 1e3, " + ".join(names)
    return None


class EnergyMeter:
    """Measures from ``start`` to ``stop``. Without anything to measure with, ``stop`` says so; neither raises."""

    def __init__(self) -> None:
        self._nvml = _nvml_counter()
        self._tegra: _Tegrastats | None = None
        self._from = (0.0, 0.0)

    def start(self) -> None:
        if self._nvml is None:
            self._tegra = _Tegrastats.open()
        else:
            self._from = time.perf_counter(), self._nvml.read()

    def stop(self) -> Energy:
        if self._nvml is not None:
            joules = self._nvml.read() - self._from[1]
            return Energy(joules, time.perf_counter() - self._from[0], self._nvml.source)
        return Energy(source="neither NVML nor tegrastats answers") if self._tegra is None else self._tegra.close()


class _Counter:
    """NVML's energy counter of one GPU."""

    def __init__(self, nvml: Any, device: Any) -> None:
        self._nvml, self._device = nvml, device
        name = nvml.nvmlDeviceGetName(device)
        self.source = f"NVML, {name.decode() if isinstance(name, bytes) else name}"

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) / 1e3


def _nvml_counter() -> _Counter | None:
    """``None`` where NVML is not installed, finds no GPU, or the GPU (such as a Jetson's) has no counter."""
    try:
        import pynvml
    except ImportError:
        return None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        counter = _Counter(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
        counter.read()
        return counter
    return None


class _Tegrastats:
    """A running ``tegrastats``, whose lines a thread reads."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._samples: list[tuple[float, float]] = []
        self._rails = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @classmethod
    def open(cls) -> _Tegrastats | None:
        command = ["tegrastats", "--interval", str(_INTERVAL_MS)]
        try:
            return cls(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        except OSError:
            return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            power = tegrastats_power(line)
            if power is not None:
                self._samples.append((time.perf_counter(), power[0]))
                self._rails = power[1]

    def close(self) -> Energy:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if len(self._samples) < 2:
            return Energy(source="tegrastats showed no power rails, or the benchmark was too short; raise --runs")
        joules = sum((a[1] + b[1]) / 2 * (b[0] - a[0]) for a, b in pairwise(self._samples))  # trapezoids
        return Energy(joules, self._samples[-1][0] - self._samples[0][0], f"tegrastats, {self._rails}")
