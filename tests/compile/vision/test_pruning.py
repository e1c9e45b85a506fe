"""``--keep-image-tokens``: the rule, the network, the prompt, and what verify says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.tiny_models import tiny_model
from tests.models.vlm_checkpoints import PLACEHOLDERS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import VISION
from tt_edge.cli import main
from tt_edge.compile.parity import GoldenMaker, verify_bundle
from tt_edge.compile.parity.images.pruning import follows_rule, kept_by_rule, pruned_model
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint, compile_model
from tt_edge.compile.vision.pruning import PrunedTower, pruned
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.contract import VisionGeometry, kept_tokens
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime import LLM
from tt_edge.runtime.multimodal.images.processed import ProcessedImage, Span
from tt_edge.runtime.multimodal.mrope import mrope_positions
from tt_edge.runtime.multimodal.sources import Video
from tt_edge.runtime.multimodal.vision_inputs import _pruning_plan

LIMITS = {"max_batch": 2, "max_input_len": 96, "max_seq_len": 128, "max_image_tokens": 64}
GRID = VisionGeometry("qwen2_vl", "image_tokens", 1, merge_size=2, patch_dim=8, keep=0.5)


class Given(nn.Module):
    """A tower whose tables are its inputs."""

    def forward(self, features, deeper):
        return features, deeper


def image(*grid: int) -> ProcessedImage:
    return ProcessedImage(np.zeros((math.prod(grid), 8), np.float32), grid, math.prod(grid) // 4)


@pytest.mark.parametrize("keep", [0.5, 0.3, 1 / 7, 3.0, 100.0])
def test_the_network_keeps_what_the_rule_keeps(keep):
    """Images of several sizes and a video in one call, in an order of its own, with padding whose features are no numbers."""
    images = [image(1, 4, 6), image(2, 4, 4), image(1, 2, 2)]
    total, units = sum(each.tokens for each in images), 20
    geometry = VisionGeometry(**{**vars(GRID), "keep": keep})
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(units, generator=generator)[:total].numpy()
    features = torch.full((units, 5), torch.nan)
    features[rows] = torch.randn(total, 5, generator=generator)
    plan = torch.from_numpy(_pruning_plan(geometry, images, rows, units))
    count = sum(each.kept(keep) for each in images)
    got, deeper, places = PrunedTower(Given())(plan, torch.arange(count), features=features, deeper=2 * features)
    in_order, want, first = features[rows], [], 0
    for size in (6, 4, 4, 1):
        want.append(first + kept_by_rule(in_order[first : first + size], keep))
        first += size
    assert places.tolist() == torch.cat(want).tolist()
    assert torch.equal(got, in_order[places])
    assert torch.equal(deeper, 2 * got)


def test_tokens_that_are_equal_are_kept_from_the_first():
    """All tokens of an image of one colour."""
    plan = torch.from_numpy(_pruning_plan(GRID, [image(1, 4, 4)], np.arange(4), 4))
    *_, places = PrunedTower(Given())(plan, torch.arange(2), features=torch.ones(4, 3), deeper=torch.ones(4, 3))
    assert places.tolist() == [0, 1]


def test_the_rule_refuses_other_tokens():
    features = torch.tensor([[0.0], [0.1], [4.0], [-4.0]])
    assert follows_rule(features, 0.5, torch.tensor([2, 3]))
    assert not follows_rule(features, 0.5, torch.tensor([1, 2]))
    assert not follows_rule(features, 0.5, torch.tensor([2]))


@pytest.mark.parametrize(
    ("keep", "tokens", "count"),
    [(0.5, 7, 4), (0.1, 3, 1), (1.0, 9, 9), (0.25, 8, 2), (0.7, 10, 7), (4.0, 3, 3), (4.0, 9, 4)],
)
def test_how_many_are_kept(keep, tokens, count):
    assert kept_tokens(keep, tokens) == count


def test_positions_are_those_among_all_tokens():
    """Text, an image of 2 x 3 tokens of which four are kept, text, one of 1 x 2 of which one is."""
    flags = [False, True, True, True, True, False, True, False]
    kept = [np.array([0, 2, 3, 5], np.int32), np.array([1], np.int32)]
    positions, delta = mrope_positions(flags, [Span((1, 4, 6)), Span((1, 2, 4))], 2, kept)
    assert positions.tolist() == [
        [0, 1, 1, 1, 1, 4, 5, 7],
        [0, 1, 1, 2, 2, 4, 5, 7],
        [0, 1, 3, 1, 3, 4, 6, 7],
    ]
    assert delta == 0


@pytest.fixture(scope="module", params=["qwen3_vl", "internvl"])
def compiled(request, tmp_path_factory):
    """Half of the tokens: of one with deeper features and M-RoPE, also built; and of one with tiles."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = write_checkpoint(request.param, folder / "checkpoint")
    config = CompileConfig.of(precision="fp32", keep_image_tokens=0.5, **LIMITS)
    target = EngineTarget(("sm89",) if request.param == "qwen3_vl" else ())
    compile_checkpoint(str(checkpoint), folder / "out.ttedge", config, target, progress=False)
    return request.param, checkpoint, Bundle.open(folder / "out.ttedge")


def test_verified(compiled):
    """Features, logits and tokens beside transformers' model that drops the same tokens."""
    family, checkpoint, bundle = compiled
    assert bundle.manifest.config.vision.keep_image_tokens == 0.5
    assert len(bundle.manifest.engines_of(VISION)) == (family == "qwen3_vl")
    maker = GoldenMaker()
    report = verify_bundle(bundle, checkpoint, new_tokens=6, maker=maker)
    assert report.passed, report.render()
    assert report.unpruned is not None
    assert report.unpruned.tokens == 6 * sum(bool(row.pictures) for row in report.rows)
    assert (
        f"with 50% of the image tokens, compared with Hugging Face's model that drops tokens by the same rule; "
        f"{report.unpruned.equal} of {report.unpruned.tokens} greedy tokens equal those of the model with all image tokens"
    ) in report.render()
    golden, _ = maker.made(report)
    assert golden is not None
    assert not golden.images, "which of two tokens is kept may depend on the device's rounding"


def test_tokens_that_see_each_other(tmp_path):
    """Of Gemma 3's tokens of one image, those that are kept still see each other in both directions."""
    checkpoint = write_checkpoint("gemma3", tmp_path / "checkpoint")
    config = CompileConfig.of(precision="fp32", keep_image_tokens=0.5, **LIMITS)
    compile_checkpoint(str(checkpoint), tmp_path / "out.ttedge", config, EngineTarget(), progress=False)
    bundle = Bundle.open(tmp_path / "out.ttedge")
    report = verify_bundle(bundle, checkpoint, new_tokens=6)
    assert report.passed, report.render()
    assert max(row.pictures for row in report.rows) == 2
    assert bundle.manifest.contract.has_blocks


def test_tiles_and_frames(tmp_path):
    """SmolVLM, whose ``get_image_features`` returns all tiles of a prompt as one table: half of each tile, and of each frame."""
    checkpoint = write_checkpoint("smolvlm", tmp_path / "checkpoint")
    limits = {"max_batch": 2, "max_input_len": 400, "max_seq_len": 432, "max_image_tokens": 96}
    config = CompileConfig.of(precision="fp32", keep_image_tokens=0.5, **limits)
    compile_checkpoint(str(checkpoint), tmp_path / "out.ttedge", config, EngineTarget(), progress=False)
    report = verify_bundle(Bundle.open(tmp_path / "out.ttedge"), checkpoint, new_tokens=6)
    assert report.passed, report.render()
    assert max(row.pictures for row in report.rows) == 2
    video, theirs = Video([photo(40, 60, seed=i) for i in range(3)], fps=1.0), PyTorchVLM(checkpoint, Precision.FP32)
    with LLM.load(tmp_path / "out.ttedge", "reference") as llm:
        given, sizes = llm.encode("see <video>?", [video]), llm.vision.processor.preprocess(video).groups
        assert sizes == [sizes[0]] * 3
        assert len(given.images.kept[0]) == sum(kept_tokens(0.5, size) for size in sizes)
        [answer] = llm.generate(["see <video>?"], llm.config(max_new_tokens=6, ignore_eos=True), images=[[video]])
    ids = torch.tensor([list(answer.input_ids)])
    inputs = theirs.inputs(llm, "see <video>?", [video]) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pruned_model(theirs.model, 0.5, given.images.kept, [sizes]):
        assert list(answer.new_token_ids) == theirs.continue_greedily(inputs, 6, eos_token_id=None)


def test_inspect_says_so(compiled, capsys):
    assert main(["inspect", str(compiled[2].path)]) == 0
    assert "64 image tokens in one call, of which 50% are kept" in capsys.readouterr().out


def test_prompts_have_as_many_placeholders_as_are_kept(compiled):
    family, _, bundle = compiled
    place = PLACEHOLDERS[family]
    with LLM.load(bundle.path, "reference") as llm:
        images, runs = [photo(64, 96, 0), photo(64, 64, 1)], []
        run = llm.vision.encoder.session.run
        llm.vision.encoder.session.run = lambda feeds: runs.append(1) or run(feeds)
        given = [llm.encode(f"{place} and {place}?", images) for _ in range(2)]
        tokens = [llm.vision.processor.preprocess(each) for each in images]
        kept = [each.kept(0.5) for each in tokens]
        assert sum(kept) < sum(each.tokens for each in tokens)
        token = llm.vision.processor.token_ids[0]
        assert sum(index == token for index in given[0].ids) == sum(kept) == given[0].images.tokens
        assert [len(places) for places in given[0].images.kept] == kept
        assert all(np.all(np.diff(places) > 0) for places in given[0].images.kept), "in their order"
        assert len(runs) == 1, "the second time the features and places are kept"
        for one, other in zip(given[0].images.kept, given[1].images.kept, strict=True):
            np.testing.assert_array_equal(one, other)
        text = llm.generate([f"{place} and {place}?"] * 2, llm.config(max_new_tokens=6), images=[images] * 2)
        assert text[0].new_token_ids == text[1].new_token_ids


def test_a_contract_with_an_impossible_part_is_refused(compiled):
    _, _, bundle = compiled
    data = bundle.manifest.part(VISION).to_dict()
    for keep in (0.0, 1.5, float("nan"), "half"):
        data["geometry"]["keep"] = keep
        with pytest.raises(BundleError, match="keep is"):
            type(bundle.manifest.contract).from_dict(data)


def test_one_is_as_without_the_option():
    """The same configuration, and the same tower: the network cannot differ."""
    assert CompileConfig.of(keep_image_tokens=1.0) == CompileConfig.of(keep_image_tokens=1) == CompileConfig.of()
    tower, geometry = object(), VisionGeometry(**{**vars(GRID), "keep": 1.0})
    assert pruned(tower, geometry, 1.0) == (tower, geometry)


def test_impossible_parts(capsys, tmp_path):
    for keep in ("0", "-0.5", "1.5", "nan", "inf", "2.5"):
        assert main(["compile", "none", "-o", str(tmp_path / "out.ttedge"), f"--keep-image-tokens={keep}"]) == 2
        assert f"--keep-image-tokens is {float(keep)!r}; give a fraction above 0 and up to 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_image_tokens(tmp_path):
    config = CompileConfig.of(keep_image_tokens=0.5, max_input_len=8, max_seq_len=16)
    with pytest.raises(InvalidInputError, match="takes no images; omit --keep-image-tokens"):
        compile_model(lambda: tiny_model("llama"), tmp_path / "out.ttedge", config, EngineTarget())
