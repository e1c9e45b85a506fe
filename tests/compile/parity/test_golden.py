"""What Hugging Face answered, kept for the device: small, and true to the whole comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tests.proof.engines import FaultyEngine, broken
from tt_edge.bundle.manifest import DECODER, VISION
from tt_edge.compile.parity import GoldenMaker, check_parity, golden_bytes, verify_bundle
from tt_edge.config import Precision
from tt_edge.folder import CheckedFile
from tt_edge.network.storage import read_weights
from tt_edge.proof.golden import MAX_BYTES, GoldenSet
from tt_edge.proof.on_device import search
from tt_edge.proof.parts import open_decoder, open_pipeline
from tt_edge.proof.replay import replay
from tt_edge.runtime.engine.reference_session import ReferenceSession


@pytest.mark.parametrize(("precision", "dtype"), [(Precision.FP32, torch.float32), (Precision.FP16, torch.float16)])
def test_a_replay_finds_what_the_comparison_found(precision, dtype, tmp_path):
    model, maker = tiny_model("qwen2", dtype=dtype), GoldenMaker()
    converted = compiled(model, precision)
    report = check_parity(model, converted.network, converted.contract, precision, new_tokens=12, maker=maker)
    golden, note = maker.made(report)
    assert note == ""
    assert [len(prompt.ids) for prompt in golden.prompts] == [48, 9, 24], "a prompt that is compared twice is kept once"
    assert golden.batches == ((0, 1, 2), (0,))
    assert golden.tolerance == report.tolerance
    (tmp_path / "golden.safetensors").write_bytes(golden_bytes(golden))
    again = GoldenSet.from_tensors(read_weights(CheckedFile.open(tmp_path / "golden.safetensors")))
    result = replay(ReferenceSession(converted.network, converted.contract), again)
    assert result.passed, result.render()
    for row, whole in zip(result.rows, report.rows, strict=True):
        assert (row.prompt_tokens, row.tokens, row.mismatches) == (whole.prompt_tokens, whole.tokens, whole.mismatches)
        if precision is Precision.FP16:
            assert row.relative_error == pytest.approx(whole.relative_error, rel=0.3)


def test_images_and_features_are_kept(tmp_path):
    from tests.compile.parity.images.test_parity_pictures import compiled as compiled_vlm

    bundle, checkpoint = compiled_vlm("qwen2_5_vl", tmp_path)
    maker = GoldenMaker()
    report = verify_bundle(bundle, checkpoint, new_tokens=4, maker=maker)
    golden, note = maker.made(report)
    assert (note, len(golden.images)) == ("", 2)
    assert {len(prompt.images) for prompt in golden.prompts} == {0, 1, 2}
    assert all(set(image.tables) == {"image_features"} for image in golden.images)
    vision = open_pipeline(bundle, "reference")
    result = replay(open_decoder(bundle, "reference"), golden, vision)
    assert result.passed, result.render()
    assert len(result.features) == 2
    assert all(found.relative_error < 1e-5 for found in result.features)

    # A layer of the tower that is wrong: features do not match, and the search looks into the tower.
    layers = [layer for layer in bundle.network(VISION).layers if layer.kind == "MATRIX_MULTIPLY"]
    wrong = layers[len(layers) // 2].name
    (step,) = (step for step in vision.encoder.session._evaluator._steps if step.layer.name == wrong)
    compute = step.compute
    step.compute = lambda *inputs: broken(np.asarray(compute(*inputs)))
    vision.encoder.forget()
    result = replay(open_decoder(bundle, "reference"), golden, vision)
    assert (result.passed, result.features_passed) == (False, False)
    case, verdict = search(bundle, golden, result, lambda case: FaultyEngine(case.network, case.feeds, wrong))
    assert (case.part, case.text, case.results) == (VISION, "image 0", ("image_features",))
    assert [layer.name for layer in verdict.layers] == [wrong]

    # The tower is right, and a layer of the decoder is not: its caches and tables are those of the failing step.
    attention = next(layer.name for layer in bundle.network(DECODER).layers if layer.kind == "ATTENTION")
    decoder = open_decoder(bundle, "reference")
    (step,) = (step for step in decoder._evaluator._steps if step.layer.name == attention)
    attend = step.compute
    step.compute = lambda *inputs: broken(np.asarray(attend(*inputs)))
    result = replay(decoder, golden, open_pipeline(bundle, "reference"))
    assert (result.logits_passed, result.features_passed) == (False, True)
    case, verdict = search(bundle, golden, result, lambda case: FaultyEngine(case.network, case.feeds, attention))
    assert case.part == DECODER
    assert "image_features" in case.feeds
    assert [layer.name for layer in verdict.layers] == [attention]


def test_images_that_are_too_large_are_left_out():
    maker = GoldenMaker()
    maker.add_images([np.zeros((10, 10, 3), np.uint8), np.zeros((2000, 3000, 3), np.uint8)])

    class Picture:
        pass

    pictures, logits = [Picture(), Picture()], np.eye(4, 97, dtype=np.float32)

    class Asked:
        def __init__(self, ids, *given):
            self.ids, self.pictures = ids, given

    prompts = [Asked([1], pictures[0]), Asked([2], pictures[1]), Asked([3])]
    answer = ([0, 1, 2, 3], logits, logits)
    maker.add_batch(prompts, [answer] * 3, pictures)
    maker.add_batch(prompts[1:2], [answer], pictures)

    class Report:
        precision, tolerance = "fp32", 1e-4

    golden, note = maker.made(Report())
    assert note == "1 images are left out of the golden set, which has room for 16 MiB"
    assert ([p.ids.tolist() for p in golden.prompts], golden.batches, len(golden.images)) == ([[1], [3]], ((0, 1),), 1)
    assert golden.nbytes < MAX_BYTES
