"""Fuzzing of everything that reads what others wrote: bundle files and requests.

Each input is a valid file that a few mutations were made to, of its bytes or of its JSON (``mutations.py``). A reader must
return or raise one of the project's errors; what else it raises is a failure, and Hypothesis says which seed led to it.

    pytest tests/fuzz                                   a few thousand inputs, the same ones every time
    TT_EDGE_FUZZ_EXAMPLES=100000 pytest tests/fuzz      so many inputs in all, and others every time
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

from tt_edge.errors import MAX_MESSAGE, TTEdgeError

#: How many fuzzers share the inputs; ``test_every_fuzzer_has_its_share`` counts them.
FUZZERS = 10
EXAMPLES = int(os.environ.get("TT_EDGE_FUZZ_EXAMPLES", "0"))

# No fixture changes between inputs, and a deadline for each would depend on the machine: see the tests' own limits.
settings.register_profile(
    "fuzz",
    max_examples=-(-EXAMPLES // FUZZERS) if EXAMPLES else 500,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
FUZZ = settings.get_profile("fuzz")


@contextmanager
def refused(*others: type[Exception]) -> Iterator[None]:
    """Lets the project's errors pass, of one line that can be printed, and ``others``."""
    try:
        yield
    except TTEdgeError as error:
        message = str(error)
        assert 10 < len(message) <= MAX_MESSAGE + 2
        assert len(message.splitlines()) == 1
        message.encode()
    except others:
        pass
