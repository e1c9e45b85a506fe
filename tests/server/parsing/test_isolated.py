"""Functions in a process of their own: results and errors come back, and none of them can hold up or end the server."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

pytest.importorskip("pydantic")

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.server.errors import ApiError
from tt_edge.server.parsing.isolated import IsolatedExecutor


@pytest.fixture(scope="module")
def executor():
    executor = IsolatedExecutor("test", max_seconds=8.0, max_bytes=2 << 30)
    yield executor
    executor.shutdown()


def printing(value):
    print("this is no answer")
    os.write(1, b"nor is this")
    return value


def refusing(error):
    raise error


def test_results_come_back(executor):
    assert executor.submit(printing, {"a": [1, "ü"]}).result() == {"a": [1, "ü"]}
    assert executor.submit(np.arange, 3_000_000, dtype=np.int32).result()[-1] == 2_999_999
    assert executor.submit(os.getpid).result() == executor.process.pid != os.getpid()
    assert executor.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(
        19, os.getpriority(os.PRIO_PROCESS, 0) + 15
    )


def test_refusals_come_back_as_they_are(executor):
    error = executor.submit(refusing, ApiError(413, "too large", "code", param="prompt")).exception()
    assert (error.status, error.message, error.code, error.param) == (413, "too large", "code", "prompt")
    with pytest.raises(InvalidInputError, match=r"^image 1 is none$"):
        executor.submit(refusing, InvalidInputError("image 1 is none")).result()


def test_a_defect_is_one_line(executor):
    with pytest.raises(EngineError, match=r"^internal error \(KeyError: 'x'\); please report it$"):
        executor.submit(refusing, KeyError("x")).result()


@pytest.mark.parametrize(
    ("function", "args"), [(time.sleep, (60,)), (os.abort, ()), (bytearray, (4 << 30,)), (os._exit, (0,))]
)
def test_what_takes_too_much_ends_and_the_next_is_done(executor, function, args):
    start = time.monotonic()
    with pytest.raises(InvalidInputError, match=r"takes more than 8 s or 2 GiB to read; send less"):
        executor.submit(function, *args).result()
    assert time.monotonic() - start < 20
    assert executor.submit(printing, 1).result() == 1


def test_shutting_down_does_not_wait_for_a_function():
    executor = IsolatedExecutor("test", max_seconds=60.0)
    executor.submit(printing, 1).result()
    working, start = executor.submit(time.sleep, 50), time.monotonic()
    while not working.running():
        time.sleep(0.01)
    pid = executor.process.pid
    executor.shutdown(wait=False)
    with pytest.raises(InvalidInputError):
        working.result()
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
