"""What an engine of a bundle is built with, beside its network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.models.decoders import compiled
from tt_edge.bundle.engines import profiles_for
from tt_edge.tensorrt_api import Flavour, TensorRT


@pytest.mark.parametrize(
    ("flavour", "version", "capability", "max_batch", "largest"),
    [
        (Flavour.STANDARD, "10.13.3.9", "sm110", 1, 2),
        (Flavour.STANDARD, "10.13.3.9", "sm110", 3, 3),
        (Flavour.STANDARD, "11.0.1", "sm110", 1, 2),
        (Flavour.STANDARD, "10.3.0", "sm110", 1, 1),
        (Flavour.STANDARD, "10.13.3.9", "sm87", 1, 1),
        (Flavour.RTX, "1.6.1.120", "sm120", 1, 1),
    ],
)
def test_profiles_avoid_the_fusion_that_is_wrong_at_batch_1(flavour, version, capability, max_batch, largest):
    _, contract = compiled(max_batch)
    profiles = profiles_for(contract, TensorRT(flavour, None, version), capability)
    for profile in profiles:
        ids = profile["input_ids"]
        assert (ids.min[0], ids.opt[0], ids.max[0]) == (1, 1, largest)
        assert {ranges.max[0] for ranges in profile.values()} == {largest}
    assert profiles == replace(contract, limits=replace(contract.limits, max_batch=largest)).profiles()
