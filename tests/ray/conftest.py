"""A Ray cluster of two nodes on this machine, and a small bundle with random weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.bundle.making import IDENTITY
from tests.models.decoders import compiled
from tests.network.reference.building import DecoderShape
from tt_edge.bundle import BundleWriter
from tt_edge.bundle.manifest import DECODER, part_file
from tt_edge.config import CompileConfig, Precision
from tt_edge.network.storage import write_network

pytest.importorskip("ray")
pytest.importorskip("transformers")  # which makes the tokenizer

LIMITS = {"max_batch": 2, "max_input_len": 64}
CAPACITY = 512


@dataclass
class Nodes:
    """The first node has the control processes; the second may be lost."""

    cluster: Any
    second: Any = None

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self) -> None:
        """Start the second node, if it is not there."""
        self.second = self.second or self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    def lose(self) -> None:
        """Kill all processes of the second node, as a power cut does."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="package")
def nodes():
    """Each node runs one task or replica. Ended after these tests: its processes take memory that others need."""
    from ray.cluster_utils import Cluster

    # Ray hands these on to the processes that it starts.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
            # A lost machine is noticed after 2 s, not 15.
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    yield Nodes(cluster)
    cluster.shutdown()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A language model of two slots, evaluated by the reference session."""
    folder = tmp_path_factory.mktemp("ray")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    shape = DecoderShape(vocabulary=512, capacity=CAPACITY, scale=0.3, tied=False)
    network, contract = compiled(**LIMITS, shape=shape)
    config = CompileConfig.of(precision=Precision.FP32, max_seq_len=CAPACITY, **LIMITS)
    with BundleWriter(folder / "tiny.ttedge") as writer:
        write_network(network, lambda name: writer.open(part_file(DECODER, name)))
        for file in (folder / "tokenizer").iterdir():
            writer.write_bytes(file.name, file.read_bytes())
        writer.commit(IDENTITY, config, {DECODER: contract})
    return folder / "tiny.ttedge"
