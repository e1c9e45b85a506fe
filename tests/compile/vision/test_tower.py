"""Features of one tile are counted without computing them."""

from __future__ import annotations

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from tests.models.any_vlm import tiny_model
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.tower import tower_of

#: By model type, the module of the tower that sees pixels first, and the features of a tile.
TOWERS = {"aya_vision": ("vision_tower", 4), "instructblip": ("vision_model", 32)}


@pytest.fixture(params=TOWERS)
def tower(request):
    """A model, the first module of its tower, and the features of a tile."""
    model = tiny_model(request.param)
    name, tokens = TOWERS[request.param]
    return model, next(part for path, part in model.named_modules() if path.split(".")[-1] == name), tokens


def test_nothing_is_computed(tower):
    """Shapes are enough, and no tensor without values is left."""
    model, first, tokens = tower
    seen = []
    first.register_forward_hook(lambda _module, _given, out: seen.append(type(next(iter(out.values())))))
    _, geometry = tower_of(model, family_of(model))
    assert geometry.tokens_a_unit == tokens
    assert seen == [FakeTensor]
    gc.collect()
    assert not any(isinstance(each, FakeTensor) for each in gc.get_objects())


def test_what_values_decide_is_computed(tower):
    model, first, tokens = tower
    seen = []
    first.register_forward_pre_hook(lambda *_: seen.append(bool(torch.ones(1).cumsum(0))))
    _, geometry = tower_of(model, family_of(model))
    assert geometry.tokens_a_unit == tokens
    assert seen == [True]


def test_an_error_is_the_models_own_and_said_once(tower, capfd):
    model, first, _ = tower
    first.register_forward_pre_hook(lambda _module, _given: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        tower_of(model, family_of(model))
    assert capfd.readouterr() == ("", "")
