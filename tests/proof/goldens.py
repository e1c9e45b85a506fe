"""Golden sets of the tests' decoder: its own reference evaluation stands for PyTorch."""

from __future__ import annotations

import numpy as np

from tests.models.decoders import compiled
from tt_edge.contract import IOContract
from tt_edge.network.ir import Network
from tt_edge.proof.golden import GoldenPrompt, GoldenSet
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.engine.session import Session

PROMPTS = ([3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5])


def golden_of(network: Network, contract: IOContract, steps: int = 6, tolerance: float = 1e-4) -> GoldenSet:
    """What the network itself answers to three prompts: ragged, and the first by itself."""
    session, prompts = ReferenceSession(network, contract), []
    for ids in PROMPTS:
        tokens, logits = greedy(session, ids, steps)
        prompts.append(GoldenPrompt.of(ids, tokens, logits, logits))
    return GoldenSet("fp32", tolerance, tuple(prompts), ((0, 1, 2), (0,)))


def greedy(session: Session, ids: list[int], steps: int) -> tuple[list[int], np.ndarray]:
    """Greedy tokens and the logits ``[T, V]`` that chose them."""
    session.reset(1)
    rows = [session.forward(np.array([ids]), np.array([len(ids)]))[0].copy()]
    while len(rows) < steps:
        token = int(rows[-1].argmax())
        rows.append(session.forward(np.array([[token]]), np.array([1]))[0].copy())
    return [int(row.argmax()) for row in rows], np.stack(rows)


def decoder_and_golden() -> tuple[Network, IOContract, GoldenSet]:
    network, contract = compiled()
    return network, contract, golden_of(network, contract)
