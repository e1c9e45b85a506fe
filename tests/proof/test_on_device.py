"""A bundle with a golden set on a machine whose engines are made up: right ones, and one with a wrong layer."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from tests.bundle.making import ENGINE, edit_manifest, write_bundle
from tests.models.decoders import compiled
from tests.proof.engines import FaultyEngine, broken
from tests.proof.goldens import golden_of
from tests.proof.test_precision import engine as inspector
from tests.proof.test_precision import gemm
from tt_edge.bundle import Bundle
from tt_edge.bundle.keys import new_key
from tt_edge.bundle.manifest import DECODER
from tt_edge.bundle.signing import sign
from tt_edge.bundle.update import put_file
from tt_edge.contract import CONTEXT_PROFILE
from tt_edge.errors import BundleError, EngineError, InvalidInputError
from tt_edge.folder import Folder
from tt_edge.network.storage import write_weights
from tt_edge.proof import on_device
from tt_edge.proof.bisect.case import decoder_case
from tt_edge.proof.bisect.verdict import Verdict
from tt_edge.proof.evidence import beside, read_beside, record
from tt_edge.proof.golden import GOLDEN_FILE, GoldenSet
from tt_edge.runtime.engine.choose import Machine
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.tensorrt_api import Flavour, TensorRT

FITS = Machine("linux_x86_64", "sm89", {"tensorrt_rtx": "1.6.1.1"})
NO_GPU = replace(FITS, compute_capability=None)


def content_of(golden: GoldenSet) -> bytes:
    buffer = io.BytesIO()
    write_weights(golden.tensors(), buffer)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    """A bundle with an engine for sm89 and a golden set."""
    write_bundle(tmp_path / "a.ttedge")
    put_file(Folder.open(tmp_path / "a.ttedge"), GOLDEN_FILE, content_of(golden_of(*compiled())))
    return tmp_path / "a.ttedge"


class Executed(ReferenceSession):
    """Stands for an engine's session; ``wrong`` is a layer that it computes wrongly."""

    wrong = ""

    def __init__(self, network, contract) -> None:
        super().__init__(network, contract)
        for step in self._evaluator._steps:
            if step.layer.name == self.wrong:
                step.compute = lambda *inputs, compute=step.compute: broken(compute(*inputs))

    @property
    def word(self) -> str:
        return "executed by TensorRT-RTX 1.6.1.1 on Fake GPU"


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU: sessions are of class ``Executed``, engines say nothing of their layers."""

    def open_decoder(bundle, runtime, machine=None):
        return Executed(bundle.network(DECODER), bundle.manifest.contract)

    monkeypatch.setattr(on_device, "open_decoder", open_decoder)
    monkeypatch.setattr(on_device, "load", lambda flavour=None: TensorRT(Flavour.RTX, None, "1.6.1.1"))
    monkeypatch.setattr(on_device, "layer_information", lambda *_, **__: '{"Layers": ["a"]}')
    monkeypatch.setattr(Executed, "wrong", "")
    return monkeypatch


def opened(path) -> tuple[Bundle, GoldenSet]:
    bundle = Bundle.open(path)
    golden = on_device.golden_of(bundle)
    assert golden is not None
    return bundle, golden


def test_the_golden_set_of_a_bundle_is_checked(path):
    assert len(opened(path)[1].prompts) == 3
    (file,) = path.glob("golden-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="was edited"):
        on_device.golden_of(Bundle.open(path))


def test_a_bundle_without_one(tmp_path):
    write_bundle(tmp_path / "a.ttedge")
    assert on_device.golden_of(Bundle.open(tmp_path / "a.ttedge")) is None


def test_the_reference_answers_it(path):
    proof = on_device.prove(*opened(path), "reference", FITS)
    assert proof.passed
    assert proof.engines == ()
    assert (proof.evidence.claim, proof.evidence.word) == ("golden set, reference", "evaluated")
    assert "matches Hugging Face over 6 tokens of 3 prompts" in proof.evidence.detail


def test_no_engine_fits(path):
    bundle, golden = opened(path)
    assert on_device.prove(bundle, golden, "auto", NO_GPU) is None
    with pytest.raises(EngineError, match="engine of the bundle fits this machine"):
        on_device.prove(bundle, golden, "tensorrt", NO_GPU)


def test_an_engine_that_matches(path, gpu):
    proof = on_device.prove(*opened(path), "auto", FITS)
    assert proof.passed
    assert [engine.file for engine in proof.engines] == [ENGINE]
    evidence = proof.evidence
    assert (evidence.claim, evidence.word) == ("golden set, sm89, tensorrt_rtx 1.6.1.1", "executed")
    assert "executed by TensorRT-RTX 1.6.1.1 on Fake GPU; driver" in evidence.detail


def test_an_engine_with_a_wrong_layer(path, gpu):
    gpu.setattr(Executed, "wrong", "attention_39")
    proof = on_device.prove(*opened(path), "tensorrt", FITS)
    assert not proof.passed
    assert proof.evidence.word == "failed"
    assert "does NOT match" in proof.evidence.detail


def test_an_engine_of_other_types_than_asked_does_not_pass(path, gpu):
    network = Bundle.open(path).network(DECODER)
    product = next(i for i, layer in enumerate(network.layers) if layer.kind == "MATRIX_MULTIPLY")
    gpu.setattr(on_device, "layer_information", lambda *_, **__: inspector(gemm([product], ["Half", "Half"])))
    proof = on_device.prove(*opened(path), "auto", FITS)
    assert proof.replay.passed
    assert not proof.passed
    (mismatch,) = proof.precision[DECODER].mismatches
    assert (mismatch.asked, mismatch.built) == ("float32 x float32", "float16")


def test_the_search_names_the_layer(path, gpu):
    gpu.setattr(Executed, "wrong", "attention_39")
    bundle, golden = opened(path)
    result = on_device.prove(bundle, golden, "tensorrt", FITS).replay
    told = []

    def engines_of(case):
        return FaultyEngine(case.network, case.feeds, "attention_39")

    case, verdict = on_device.search(bundle, golden, result, engines_of, progress=lambda *outcome: told.append(outcome))
    assert (case.part, case.text) == (DECODER, "the prefill of 5 tokens, 1 in the batch"), (
        "the smallest batch that fails"
    )
    assert [layer.name for layer in verdict.layers] == ["attention_39"]
    assert told[0] == ((), "still wrong")
    assert len(told) == verdict.trials
    text = on_device.Search(case, verdict).render()
    assert text.startswith(
        f"looked into the prefill of 5 tokens, 1 in the batch, part {DECODER}:\nthe first layer that is wrong:"
    )


def test_nothing_to_search_for(path):
    bundle, golden = opened(path)
    result = on_device.prove(bundle, golden, "reference", FITS).replay
    with pytest.raises(InvalidInputError, match="nothing is wrong, so there is no layer to look for"):
        on_device.search(bundle, golden, result, lambda case: None)


def test_debugging_engines_need_a_gpu(path):
    with pytest.raises(EngineError, match="this machine has no usable GPU"):
        on_device.debugging_engines(Bundle.open(path))


def evidence_in(path) -> dict[str, str]:
    return {e.claim: e.word for e in Bundle.open(path).manifest.evidence}


def test_the_outcome_is_recorded_in_the_manifest(path):
    bundle, golden = opened(path)
    proof = on_device.prove(bundle, golden, "reference", FITS)
    assert record(bundle, [proof.evidence]) == "recorded in the bundle's manifest"
    assert evidence_in(path)["golden set, reference"] == "evaluated"
    assert Bundle.open(path).verify() == []


def test_beside_a_signed_bundle(path, tmp_path):
    key, public = new_key(str(tmp_path / "key"))
    sign(path, key)
    before = (path / "manifest.json").read_bytes()
    bundle, golden = opened(path)
    proof = on_device.prove(bundle, golden, "reference", FITS)
    said = record(bundle, [proof.evidence])
    file = tmp_path / "a.ttedge.evidence.json"
    assert said == f"the bundle is signed, so this is recorded beside it: {file}"
    assert (path / "manifest.json").read_bytes() == before
    Bundle.open(path, public)
    assert read_beside(bundle) == (proof.evidence,)
    other = replace(proof.evidence, claim="another")
    record(bundle, [other])
    record(bundle, [other])
    assert read_beside(bundle) == (proof.evidence, other), "one entry a claim"


def test_a_record_of_another_manifest_is_not_read(path, tmp_path):
    key, _ = new_key(str(tmp_path / "key"))
    sign(path, key)
    bundle, golden = opened(path)
    record(bundle, [on_device.prove(bundle, golden, "reference", FITS).evidence])
    edit_manifest(path, lambda data: data.update(created_by="somebody else"))
    assert read_beside(Bundle.open(path)) == ()
    for content in ("", "[]", '{"manifest_sha256": 3}'):
        beside(bundle).write_text(content)
        assert read_beside(bundle) == ()


def test_a_link_beside_a_signed_bundle_is_not_written_through(path, tmp_path):
    key, _ = new_key(str(tmp_path / "key"))
    sign(path, key)
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "a.ttedge.evidence.json").symlink_to(tmp_path / "mine.json")
    bundle, golden = opened(path)
    record(bundle, [on_device.prove(bundle, golden, "reference", FITS).evidence])
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert json.loads((tmp_path / "a.ttedge.evidence.json").read_text())["evidence"]


def test_a_bundle_that_cannot_be_written_to_is_proven_all_the_same(path, monkeypatch):
    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tt_edge.bundle.update.record_evidence", read_only)
    bundle, golden = opened(path)
    assert (
        record(bundle, [on_device.prove(bundle, golden, "reference", FITS).evidence])
        == "not recorded: Permission denied"
    )


def test_tf32_is_named_where_it_may_be_to_blame(path, gpu):
    proof = on_device.prove(*opened(path), "auto", FITS)
    assert proof.hint == ""
    off = replace(proof, replay=replace(proof.replay, rows=(replace(proof.replay.rows[0], relative_error=8e-4),)))
    assert "may compute products in TF32" in off.hint
    assert replace(off, engines=()).hint == ""


def test_debugging_engines_are_built_as_the_bundle_s_are(path, monkeypatch, tensorrt):
    """With the profiles that the release needs, and its known faults beside them."""
    standard = replace(tensorrt, flavour=Flavour.STANDARD, version="10.13.3.9")
    monkeypatch.setattr(on_device, "load", lambda flavour=None: standard)
    monkeypatch.setattr(on_device, "local_compute_capability", lambda: "sm110")
    edit_manifest(path, lambda data: data["parts"][DECODER]["limits"].update(max_batch=1))
    bundle, golden = opened(path)
    engines_of, traps = on_device.debugging_engines(bundle)
    assert [trap.name for trap in traps] == ["horizontal fusion at batch 1"]
    row = replace(on_device.prove(bundle, golden_of_one(golden), "reference", FITS).replay.rows[0], first_wrong_step=0)
    case = decoder_case(DECODER, bundle.network(DECODER), bundle.manifest.contract, golden_of_one(golden), row, None)
    trial = engines_of(case)
    assert {ranges.max[0] for ranges in trial.profiles[0].values()} == {2}
    assert trial.profile == CONTEXT_PROFILE
    text = on_device.Search(case, Verdict("none", measured=()), traps).render()
    assert "known of this release: TensorRT 10.13.3 on Thor computes q/k/v and gate/up wrongly" in text


def golden_of_one(golden: GoldenSet) -> GoldenSet:
    """The first prompt by itself."""
    return replace(golden, prompts=golden.prompts[:1], batches=((0,),))


def test_a_runtime_without_a_builder_says_so(path, monkeypatch, tensorrt):
    class Lean:
        Runtime = tensorrt.module.Runtime

    monkeypatch.setattr(on_device, "load", lambda flavour=None: TensorRT(Flavour.LEAN, Lean, "10.16.1"))
    monkeypatch.setattr(on_device, "local_compute_capability", lambda: "sm87")
    with pytest.raises(
        EngineError, match=r"tensorrt_lean 10\.16\.1 has no builder, so no debugging engine can be built"
    ):
        on_device.debugging_engines(Bundle.open(path))


def test_the_search_and_the_types_follow_the_form_that_was_built(path, gpu):
    """An engine of an older TensorRT: its caches go through the network, its attention has a mask."""
    from tt_edge.network.legalize.form import Form
    from tt_edge.network.legalize.legalize import legalize
    from tt_edge.tensorrt_features import FEATURES, features_of_release

    network = Bundle.open(path).network(DECODER)
    legal = legalize(network, features_of_release("10.14.1"))
    edit_manifest(path, lambda data: data["engines"][0].update(form=legal.form.name))
    gpu.setattr(Executed, "wrong", "attention_39")
    bundle, golden = opened(path)
    proof = on_device.prove(bundle, golden, "tensorrt", FITS)
    inside = next(x.name for x in legal.network.layers if x.kind == "SCATTER")
    case, verdict = on_device.search(
        bundle, golden, proof.replay, lambda case: FaultyEngine(case.network, case.feeds, inside), proof.engines
    )
    assert not case.contract.kv_in_place
    assert case.network.kinds() == legal.network.kinds()
    assert [layer.name for layer in verdict.layers] == [inside]
    products = [i for i, layer in enumerate(legal.network.layers) if layer.kind == "MATRIX_MULTIPLY"]
    gpu.setattr(on_device, "layer_information", lambda *_, **__: inspector(gemm([products[-1]], ["Half", "Half"])))
    (mismatch,) = on_device.prove(bundle, golden, "tensorrt", FITS).precision[DECODER].mismatches
    assert mismatch.layer == legal.network.layers[products[-1]].name
    assert Form.parse(legal.form.name).replaced <= set(FEATURES)
