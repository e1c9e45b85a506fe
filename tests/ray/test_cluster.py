"""Addresses of clusters."""

from __future__ import annotations

import pytest

from tt_edge.errors import InvalidInputError
from tt_edge.ray.cluster import connected


@pytest.mark.parametrize("address", ["", "localhost", ":6379", "host:", "host:65536", "host:x", "remote"])
def test_addresses_that_are_none(address):
    with (
        pytest.raises(InvalidInputError, match=r"^--ray is '.*'; give HOST:PORT of a cluster, auto, or local$"),
        connected(address),
    ):
        pass


def test_nobody_is_there():
    with (
        pytest.raises(InvalidInputError, match=r"^there is no Ray cluster at 127\.0\.0\.1:9 .*; start one"),
        connected("127.0.0.1:9"),
    ):
        pass
