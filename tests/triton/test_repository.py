"""A Triton model repository: its configuration is Triton's, and its model answers as the Python API does."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import types
from collections import defaultdict

import numpy as np
import pytest

from tests.bundle.making import CONFIG, IDENTITY, write_bundle
from tests.models.decoders import compiled
from tests.runtime.llms import make_llm
from tt_edge.bundle import BundleWriter
from tt_edge.bundle.manifest import DECODER, ENCODER, part_file
from tt_edge.cli import main
from tt_edge.contract import BATCH, SEQUENCE, IOContract, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.storage import write_network
from tt_edge.runtime.llm import LLM
from tt_edge.triton.repository import write_repository


def test_the_configuration_is_tritons(tmp_path):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format", reason="protobuf is not installed")
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    bundle = tmp_path / 'a "b"\n\\ü.ttedge'
    model = write_repository(bundle, tmp_path / "repository", name="m", runtime="reference", max_waiting=3)
    config = text_format.Parse((model / "config.pbtxt").read_bytes(), schema.ModelConfig())
    assert (config.name, config.backend, config.model_transaction_policy.decoupled) == ("m", "python", True)
    assert {i.name for i in config.input if not i.optional} == {"text_input"}
    assert [(o.name, o.data_type) for o in config.output] == [("text_output", schema.TYPE_STRING)]
    values = {name: entry.string_value for name, entry in config.parameters.items()}
    assert values == {"bundle": str(bundle.resolve()), "runtime": "reference", "max_waiting": "3"}


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "a b", 'a"', "x" * 129, "ü"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(InvalidInputError, match=r"^model name .* is not of letters"):
        write_repository(tmp_path, tmp_path / "repository", name=name)
    assert not (tmp_path / "repository").exists()


def test_the_command(tmp_path, capsys):
    write_bundle(tmp_path / "b.ttedge")
    assert main(["triton", str(tmp_path / "b.ttedge"), "-o", str(tmp_path / "r")]) == 0
    assert f"tritonserver --model-repository {tmp_path / 'r'}" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "r" / "b").rglob("*")) == ["1", "config.pbtxt", "model.py"]
    assert main(["triton", str(tmp_path / "none"), "-o", str(tmp_path / "r")]) != 0
    assert main(["triton", str(tmp_path / "b.ttedge"), "-o", str(tmp_path / "r"), "--max-waiting", "-1"]) == 2
    (tmp_path / "file").write_bytes(b"")
    assert main(["triton", str(tmp_path / "b.ttedge"), "-o", str(tmp_path / "file")]) == 2
    assert "file cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "refused"), [("source_ids", False), ("input_features", True), ("page_pixels", True)])
def test_encoder_decoders_of_texts_only(tmp_path, capsys, given, refused):
    path = tmp_path / "b.ttedge"
    network, contract = compiled()
    encoder = IOContract(
        inputs=(TensorSpec(given, DType.INT64, (BATCH, SEQUENCE)),),
        outputs=(TensorSpec("source_states", DType.FLOAT32, (BATCH, SEQUENCE, 8)),),
        limits=contract.limits,
    )
    with BundleWriter(path) as writer:
        for part in (DECODER, ENCODER):
            write_network(network, lambda name, part=part: writer.open(part_file(part, name)))
        writer.commit(IDENTITY, CONFIG, {DECODER: contract, ENCODER: encoder})
    assert (main(["triton", str(path), "-o", str(tmp_path / "r")]) == 2) == refused
    assert (tmp_path / "r").exists() != refused
    assert ("of speech or pages, and the Triton model takes only text" in capsys.readouterr().err) == refused


class Sender:
    """Takes responses, as Triton's sender does."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self.done = threading.Event()

    def send(self, response, flags: int = 0) -> None:
        assert not self.done.is_set()
        if response.error:
            self.errors.append(response.error)
        self.texts += [bytes(tensor.as_numpy()[0]).decode() for tensor in response.tensors]
        if flags:
            self.done.set()

    def is_cancelled(self) -> bool:
        return False


class Asked:
    """A request whose memory is used again once ``execute`` has returned, as Triton does."""

    def __init__(self, **inputs) -> None:
        self.inputs, self.sender = {name: np.array([value], np.object_) for name, value in inputs.items()}, Sender()

    def get_response_sender(self) -> Sender:
        return self.sender


class Tensor:
    def __init__(self, name, array) -> None:
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The model of a repository, in a stand-in for the process of Triton's Python backend."""
    pytest.importorskip("transformers")
    from examples.tiny_checkpoint import make_tokenizer

    def tensor_of(request, name):
        return Tensor(name, request.inputs[name]) if name in request.inputs else None

    backend = types.ModuleType("triton_python_backend_utils")
    backend.get_input_tensor_by_name = tensor_of
    backend.Tensor, backend.TritonError = Tensor, str
    backend.InferenceResponse = lambda output_tensors, error: types.SimpleNamespace(tensors=output_tensors, error=error)
    backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    backend.Logger = types.SimpleNamespace(log_error=pytest.fail)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.delitem(sys.modules, "tt_edge.triton.model", raising=False)
    make_tokenizer().save_pretrained(tmp_path)
    llm = make_llm(tmp_path, name="m")
    monkeypatch.setattr(LLM, "load", lambda path, runtime: llm)
    made = importlib.import_module("tt_edge.triton.model").TritonPythonModel()
    parameters = {name: {"string_value": value} for name, value in (("bundle", "b"), ("runtime", "reference"))}
    parameters["max_waiting"] = {"string_value": "8"}
    made.initialize({"model_config": json.dumps({"parameters": parameters})})
    yield made
    made.finalize()
    monkeypatch.delitem(sys.modules, "tt_edge.triton.model")


def ask(model, **inputs) -> Sender:
    asked = Asked(**inputs)
    model.execute([asked])
    asked.inputs = defaultdict(lambda: pytest.fail("the memory is used again"))
    assert asked.sender.done.wait(30)
    return asked.sender


def test_answers_are_the_python_apis(model):
    text = model._llm.llm.generate(["The light"], GenerationConfig(8))[0].text
    parameters = json.dumps({"max_tokens": 8}).encode()
    whole = ask(model, text_input=b"The light", sampling_parameters=parameters)
    assert (whole.texts, whole.errors) == ([text], [])
    echoed = ask(model, text_input=b"The light", sampling_parameters=parameters, exclude_input_in_output=False)
    assert echoed.texts == ["The light" + text]
    streamed = ask(model, text_input=b"The light", sampling_parameters=parameters, stream=True)
    assert "".join(streamed.texts) == text
    assert len(streamed.texts) > 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "text_input is missing; give the prompt"),
        ({"text_input": b"\xff"}, "text_input is not one text in UTF-8; send one"),
        ({"text_input": b"a", "sampling_parameters": b"{"}, "sampling_parameters is not JSON"),
        ({"text_input": b"a", "sampling_parameters": b"[]"}, "sampling_parameters is a list; give a JSON object"),
        ({"text_input": b"a", "sampling_parameters": b'{"max_tokens": -1}'}, "max_new_tokens"),
        ({"text_input": b"a", "sampling_parameters": b'{"max_tokens": 99999}'}, "more than max_seq_len"),
    ],
)
def test_refusals_are_errors_of_their_request(model, inputs, message):
    sender = ask(model, **inputs)
    assert len(sender.errors) == 1
    assert message in sender.errors[0]
    assert sender.texts == []
