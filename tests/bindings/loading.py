"""Loading an engine and generating with it, on the real bindings of a release and without a library behind them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bindings.replay_case import Case
from tests.bindings.surface import Recorder
from tests.runtime.engine import fake_tensorrt
from tt_edge import cuda
from tt_edge.folder import CheckedFile
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.ir import Network
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.engine.tensorrt_session import TensorRTSession
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.tensorrt_api import Flavour, TensorRT

#: Prompts of unequal length: a ragged batch, and one in pieces.
PROMPTS = [[5, 9, 200, 31], [7] * 3 + list(range(40, 120)), [11, 12]]


def load_and_generate(
    package: tuple[Any, Flavour],
    case: Case,
    network: Network,
    contract: Any,
    calls: list[Any],
    *,
    stripped: bool,
    prompts: list[list[int]] = PROMPTS,
) -> int:
    """Play an engine of ``network`` against the case's own; how many tokens were equal, which must be all.

    ``stripped``: the engine gets its weights when it is loaded.
    """
    with ReferenceSession(case.network, case.contract) as session:
        want = [result.new_token_ids for result in generate(session, prompts, GenerationConfig(6))]
    engine = fake_tensorrt.FakeEngine(network, contract)
    engine.missing = set(network.weights) if stripped else set()
    device = fake_tensorrt.FakeCuda()
    engine.queue = device.queue
    cuda.runtime = lambda: device  # test_tensorrt_session holds its calls against CUDA's bindings
    trt, flavour = package
    tensorrt = TensorRT(flavour, Recorder(fake_tensorrt.FakeModule(engine), trt, trt, calls), trt.__version__)
    weights = network.weights if stripped else None
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"engine")
        file.flush()
        opened = CheckedFile.open(Path(file.name))
        with TensorRTSession(opened, contract, tensorrt, weights=weights, holds_host_code=True) as session:
            got = [result.new_token_ids for result in generate(session, prompts, GenerationConfig(6))]
    assert got == want, f"{got} are not {want}"
    return sum(len(tokens) for tokens in got)
