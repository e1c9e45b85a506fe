"""Contract, network, shapes and limits are checked against each other before any size is used."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.bundle.making import edit_manifest, write_bundle
from tests.models.decoders import compiled
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import DECODER, part_file
from tt_edge.errors import BundleError, CapacityError
from tt_edge.runtime.engine.kv_rows import region

CACHE, NETWORK = "past_key_0", part_file(DECODER, "network.json")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "tiny.ttedge"
    write_bundle(path)
    return path


@pytest.fixture
def bundle(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "tiny.ttedge")


def contract_of(data):
    return data["parts"][DECODER]


def limits_of(data):
    return contract_of(data)["limits"]


def tensor(data, name):
    contract = contract_of(data)
    return next(t for t in (*contract["inputs"], *contract["outputs"]) if t["name"] == name)


def set_capacity(data, size):
    for t in (*contract_of(data)["inputs"], *contract_of(data)["outputs"]):
        if t["name"].startswith(("past_", "present_")):
            t["shape"][2] = size


CONTRACTS = {
    # A cache of capacity 1 and a million tokens: copies between slots would reach past its end.
    "capacity": (
        lambda d: (set_capacity(d, 1), limits_of(d).update(max_seq_len=10**6)),
        "has no room for max_seq_len",
    ),
    "capacity of one": (lambda d: tensor(d, CACHE)["shape"].__setitem__(2, 1), "goes in as .* and comes out as"),
    "sequence": (lambda d: limits_of(d).update(max_seq_len=49), "has no room for max_seq_len 49"),
    "input length": (lambda d: limits_of(d).update(max_input_len=100), "max_input_len 100 exceeds max_seq_len 48"),
    "terabytes": (lambda d: set_capacity(d, 2**31 - 1), "elements"),
    "beyond 32 bits": (lambda d: set_capacity(d, 2**31), "elements"),
    "batch": (lambda d: limits_of(d).update(max_batch=2**31), "may be|its limits|elements"),
    "type": (lambda d: tensor(d, CACHE).update(dtype="int8"), "goes in as"),
    "name": (lambda d: tensor(d, CACHE).update(name="x"), "is not among its inputs"),
    "doubled name": (lambda d: tensor(d, CACHE).update(name="input_ids"), "has 'input_ids' twice"),
    "shared cache": (lambda d: contract_of(d)["kv_cache"].append(contract_of(d)["kv_cache"][0]), "in two pairs"),
    "crossed cache": (lambda d: contract_of(d)["kv_cache"][0].update(past="logits"), "is not among its inputs"),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_against_itself(bundle, name):
    change, message = CONTRACTS[name]
    edit_manifest(bundle, change)
    with pytest.raises(BundleError, match=f"({message}).*; (copy the bundle|compile the model) again"):
        Bundle.open(bundle)


def edit_network(path, change):
    """Edit ``network.json``, and the manifest with it, as somebody does who wants it to be read."""
    file = path / NETWORK
    data = json.loads(file.read_bytes())
    change(data)
    content = json.dumps(data).encode()
    file.write_bytes(content)
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(path, lambda manifest: manifest["files"].update({NETWORK: record}))


def rename_input(data):
    text = json.dumps(data).replace('"position_ids"', '"positions"')
    data.update(json.loads(text))


NETWORKS = {
    "another cache": (lambda d: [d["tensors"][n][1].__setitem__(2, 1) for n in d["tensors"] if CACHE in n], "copy the"),
    "another type": (lambda d: d["tensors"]["input_ids"].__setitem__(0, "int32"), "'input_ids' is int64"),
    "another rank": (lambda d: d["tensors"]["past_key_0"][1].append(1), "KV_CACHE_UPDATE.* is malformed"),
    "another name": (rename_input, "other inputs: position_ids, positions"),
    "an output less": (lambda d: d["outputs"].pop(), "other outputs: present_"),
    "an input in place": (lambda d: d["outputs"].reverse(), None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_against_its_contract(bundle, name):
    change, message = NETWORKS[name]
    edit_network(bundle, change)
    opened = Bundle.open(bundle)
    if message is None:  # the order of outputs is nobody's secret
        opened.network()
        return
    with pytest.raises(BundleError, match=message):
        opened.network()


def test_a_view_ends_where_the_cache_does():
    _, contract = compiled()
    spec = contract.input(CACHE)
    cache = np.zeros(spec.resolve(batch=contract.max_batch), spec.dtype.numpy)
    last = region(spec, contract, row=contract.max_batch - 1)
    assert last.view(cache, contract.max_seq_len).shape[1] == contract.max_seq_len
    for length in (contract.max_seq_len + 1, 10**6):
        with pytest.raises(CapacityError, match=f"{length} tokens reach beyond the KV cache"):
            last.view(cache, length)
