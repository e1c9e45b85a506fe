"""Tasks on a Ray cluster, whose results come in any order."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tt_edge.errors import EngineError, InvalidInputError, MissingDependencyError, TTEdgeError, one_line

#: How often a task is started again when its process or its machine is lost.
RETRIES = 3


@dataclass(frozen=True)
class Cluster:
    """A connection to a cluster; ``ray`` is the package."""

    address: str
    ray: Any

    @property
    def gpus(self) -> int:
        """All GPUs of the cluster."""
        return int(self.ray.cluster_resources().get("GPU", 0))

    def results(
        self, function: Any, calls: Iterable[Sequence[Any]], *, gpus: float = 0, cpus: int = 1
    ) -> Iterator[Any]:
        """``function`` of each of ``calls``, which are its arguments, as tasks with so many GPUs and CPU cores each.

        A task whose machine is lost starts again on another, up to ``RETRIES`` times. ``calls`` are taken when their turn is near,
        so that large arguments do not pile up. Leaving the iterator cancels the others. Raises the ``TTEdgeError`` of a task,
        and ``EngineError`` for one that is lost for good or that no machine can take.
        """
        needed = {"CPU": cpus, "GPU": gpus}
        self._check_room(needed)
        task = self.ray.remote(function).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        left = iter(calls)
        running: list[Any] = []
        try:
            while True:
                running += [
                    task.remote(*call) for call in islice(left, max(0, 2 * self._room(needed) + 2 - len(running)))
                ]
                if not running:
                    return
                done, running = self.ray.wait(running)
                for reference in done:
                    yield self._result(reference)
        finally:
            for reference in running:
                self.ray.cancel(reference, force=False)

    def _room(self, needed: dict[str, float]) -> int:
        """How many tasks the cluster can run at a time; it may grow and shrink."""
        there = self.ray.cluster_resources()
        return min(int(there.get(name, 0) / amount) for name, amount in needed.items() if amount)

    def _check_room(self, needed: dict[str, float]) -> None:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
            wanted = " and ".join(f"{amount:g} {name}" for name, amount in needed.items() if amount)
            raise EngineError(
                f"no machine of the Ray cluster at {self.address} has {wanted} for a task; add one, or lower the need"
            )

    def _result(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, TTEdgeError):
                raise error.cause from error
            raise
        except errors.RayError as error:  # its process or its machine was lost too often
            raise EngineError(
                f"a task on the Ray cluster at {self.address} was lost {RETRIES + 1} times ({one_line(error)}); see whether the "
                "machines have enough memory, and run the command again"
            ) from error


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """A connection to the cluster at ``address``: ``HOST:PORT``, ``auto`` (of this machine), or ``local`` (started for this).

    Raises ``MissingDependencyError`` without Ray, and ``InvalidInputError`` for another address, or if no cluster is there.
    """
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local") and not (host and port.isdecimal() and int(port) < 65536):
        raise InvalidInputError(f"--ray is {address!r}; give HOST:PORT of a cluster, auto, or local")
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingDependencyError('ray is not installed, which --ray needs; pip install "tt-edge[ray]"') from None
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is started here reports to nobody
    try:
        if host:  # Ray itself tries for a minute
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address, log_to_driver=False, logging_level="ERROR", include_dashboard=False if address == "local" else None
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"there is no Ray cluster at {address} ({one_line(error)}); start one (ray start --head), or give --ray local"
        ) from error
    with redirect_stdout(sys.stderr):  # Ray prints which machines were lost, at the latest at its shutdown
        try:
            yield Cluster(address, ray)
        finally:
            ray.shutdown()
