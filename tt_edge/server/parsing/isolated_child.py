"""What the process of ``isolated.py`` does: call functions."""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable


def make(first: bytes) -> Callable[[bytes], bytes]:
    """What answers a pickled function and its arguments with its result, error and traceback; ``first`` is ``sys.path``."""
    sys.path[:] = pickle.loads(first)

    def answer(message: bytes) -> bytes:
        result = error = None
        trace = ""
        try:
            function, args, kwargs = pickle.loads(message)
            result = function(*args, **kwargs)
        except MemoryError:
            raise SystemExit from None  # as if killed
        except Exception as raised:
            if type(raised).__module__.startswith("tt_edge."):
                error = raised
            else:
                trace = traceback.format_exc()
        return pickle.dumps((result, error, trace), pickle.HIGHEST_PROTOCOL)

    return answer
