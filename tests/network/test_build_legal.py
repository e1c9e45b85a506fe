"""The next form of a network where a builder refuses the newest: what is built and reported, and when nothing more is tried."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from tests.models.decoders import compiled
from tests.network.legalize.test_rules import PLAIN, attention
from tt_edge.config import Limits
from tt_edge.errors import EngineError
from tt_edge.network import build_legal
from tt_edge.network.build import EngineBuild
from tt_edge.network.build_options import BuildOptions

BUILT = EngineBuild("tensorrt_rtx", "1.6.1", "linux_x86_64", "sm89", 6, 0.1, 3, BuildOptions())


@pytest.fixture
def building(tensorrt, monkeypatch):
    """Builds a network of 32 heads with a builder that refuses some kinds of layers; the profiles of each attempt are kept."""
    network, _ = attention(PLAIN, heads=(32, 8), kind="LOWER_RIGHT", lengths=[5, 9]).network()
    contract = replace(compiled()[1], limits=Limits(max_batch=8, max_input_len=1024, max_seq_len=8192))

    def build(*refused, writes=b""):
        tried = []

        def build_engine(trt, legal, profiles, target, destination, **_):
            tried.append(profiles)
            if kinds := set(refused) & set(legal.kinds()):
                destination.write(writes)
                raise EngineError(f"cannot build {', '.join(sorted(kinds))}")
            destination.write(b"engine")
            return BUILT

        monkeypatch.setattr(build_legal, "build_engine", build_engine)
        file = io.BytesIO()
        return (
            build_legal.build_legal(tensorrt, network, contract, lambda own: own.profiles(), "sm89", file),
            file,
            tried,
        )

    return build


def test_the_newest_form_where_it_is_accepted(building):
    made, file, tried = building()
    assert (str(made.form), made.refused, made.build, file.getvalue()) == ("as captured", (), BUILT, b"engine")
    assert made.contract.max_input_len == 1024
    assert len(tried) == 1


def test_the_next_form_says_why_and_takes_shorter_calls(building):
    """Its scores are tensors: profiles and contract are those of the form that was built."""
    made, file, tried = building("ATTENTION")
    assert (str(made.form), made.refused) == ("matrix multiplies and a softmax", ("cannot build ATTENTION",))
    assert file.getvalue() == b"engine"
    assert made.contract.max_input_len == 64
    assert [profiles[0]["input_ids"].max for profiles in tried] == [(8, 1024), (8, 64)]


def test_where_all_forms_are_refused_the_first_reason_is_given(building):
    with pytest.raises(EngineError, match=r"^cannot build ATTENTION$"):
        building("ATTENTION", "SOFTMAX")


def test_bytes_that_were_written_cannot_be_taken_back(building):
    with pytest.raises(EngineError, match=r"^cannot build ATTENTION$"):
        building("ATTENTION", writes=b"half")
