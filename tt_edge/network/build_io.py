"""Callbacks of a TensorRT build: the writer of the engine, and progress monitors. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from tt_edge.tensorrt_api import TensorRT


class Writable(Protocol):
    """The destination of an engine: a file that is open for writing."""

    def write(self, data: Any, /) -> int: ...


#: Called with (phase, steps done, total steps) as the build advances; returning False cancels it.
Progress = Callable[[str, int, int], bool]


def stream_writer(tensorrt: TensorRT, destination: Writable) -> Any:
    """An ``IStreamWriter`` to ``destination`` that counts bytes; a failed write (a full disk) ends the build.

    If TensorRT has no such class, a plain object with the same ``write``.
    """
    base: Any = getattr(tensorrt.module, "IStreamWriter", object)

    class Writer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.written = 0
            self.failure: OSError | None = None

        def write(self, data: Any) -> int:
            view = memoryview(data)
            try:
                destination.write(view)
            except OSError as error:
                self.failure = error
                return 0
            self.written += view.nbytes
            return view.nbytes

    return Writer()


def progress_monitor(tensorrt: TensorRT, progress: Progress | None) -> Any:
    """An ``IProgressMonitor`` that reports to ``progress`` and turns Ctrl-C into a cancelled build.

    TensorRT calls it between steps, which is also when Python handles the signal.
    """

    class Monitor(tensorrt.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.interrupted: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self.report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.report(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            self.report(phase_name, self.steps.pop(phase_name, 0))

        def report(self, phase: str, done: int) -> bool:
            try:
                if progress is not None and not progress(phase, done, self.steps.get(phase, done)):
                    self.interrupted = self.interrupted or KeyboardInterrupt()
            except KeyboardInterrupt as interrupt:
                self.interrupted = interrupt
            return self.interrupted is None

    return Monitor()


class ProgressBars:
    """Progress of a build as tqdm bars on a terminal, one for each of TensorRT's nested phases."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bars: dict[str, Any] = {}
        self.enabled = sys.stderr.isatty()

    def __call__(self, phase: str, done: int, total: int) -> bool:
        """Draw the state of one phase; always returns True, so the build continues."""
        if not self.enabled:
            return True
        from tqdm import tqdm

        if phase not in self.bars:
            self.bars[phase] = tqdm(total=total, desc=f"{self.title}: {phase}"[:60], leave=False, unit="step")
        bar = self.bars[phase]
        bar.n = done
        bar.refresh()
        if done >= total:
            self.bars.pop(phase).close()
        return True

    def close(self) -> None:
        """Remove all bars from the terminal."""
        for bar in self.bars.values():
            bar.close()
        self.bars.clear()
