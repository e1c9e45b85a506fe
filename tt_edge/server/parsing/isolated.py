"""Functions that run in a process of their own: what they do cannot hold up the event loop, whatever a client sends."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.runtime.child_process import ChildProcess

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_CHILD = Path(__file__).with_name("isolated_child.py")

#: Seconds that one function may take, and bytes of address space of the process.
MAX_SECONDS, MAX_BYTES = 30.0, 4 << 30


class IsolatedExecutor(Executor):
    """Runs one function after the other in a child process, which the first one starts.

    Threads would not do: parsers and image decoders keep the interpreter's lock for up to half a second. A function, its
    arguments and its result are pickled. Raises ``InvalidInputError`` when it exceeds a limit or ends the process.
    """

    def __init__(self, name: str, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> None:
        self._max_seconds, self._max_bytes = max_seconds, max_bytes
        self._thread = ThreadPoolExecutor(1, name)
        self.process = ChildProcess(_CHILD, max_bytes, pickle.dumps(sys.path))

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Queue ``fn``."""
        return self._thread.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process."""
        self._thread.shutdown(wait, cancel_futures=cancel_futures)
        self.process.close()

    def _run(self, fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
        message = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
        try:
            answer = self.process.ask(message, self._max_seconds)
        except EOFError:
            raise InvalidInputError(
                f"the request takes more than {self._max_seconds:g} s or {self._max_bytes >> 30} GiB to read; send less"
            ) from None
        del message
        result, error, trace = pickle.loads(answer)
        if trace:
            _log.error("%s failed in its process: %s", fn, trace)
            raise EngineError(f"internal error ({trace.splitlines()[-1][:200]}); please report it")
        if error is not None:
            raise error
        found: _T = result
        return found
