"""Networks that select the largest logits: on every backend the tokens are those of ``generate()``, and engines are built."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled, shared
from tests.compile.seq2seq import seq2seqs
from tests.models.tiny_models import tiny_model
from tests.models.tiny_seq2seq import tiny_seq2seq
from tests.runtime.engine.fake_session import Fake
from tt_edge.compile.parity import check_parity
from tt_edge.config import Precision
from tt_edge.contract import LOG_SUM_EXP, TOP_IDS, TOP_LOGITS
from tt_edge.errors import LoweringError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.build import build_engine
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate

FORMS = {
    "native": {},
    "sdpa": {"backend": "sdpa", "cache": "static_v2"},
    "sdpa without a cache": {"backend": "sdpa"},
    "plugin": {"backend": "plugin", "plugin_contract": "tt-edge"},
}
SAMPLED = GenerationConfig(12, temperature=0.8, top_k=7, top_p=0.9, seed=3)
PROMPTS = [[5, 9, 2, 44, 7], [3], [8, 8, 1]]


def of(form: str, top: int | None = 8):
    model = shared("llama", head_dim=64).model if form == "plugin" else shared("llama").model
    return model, compiled(model, top_logits=top, **FORMS[form])


@pytest.mark.parametrize("form", FORMS)
def test_tokens_equal_generate(form):
    model, part = of(form)
    report = check_parity(model, part.network, part.contract, Precision.FP32, new_tokens=33)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0


def test_the_outputs_are_torch_topk_and_logsumexp():
    _, part = of("native")
    session = ReferenceSession(part.network, part.contract)
    session.reset(2)
    rows = session.forward_rows(np.array([[5, 9, 2], [3, 0, 0]]), np.array([3, 1]))
    for row in rows:
        whole = torch.from_numpy(row.whole())
        values, ids = torch.topk(whole, 9)
        assert row.values.tolist() == values.tolist()
        assert row.ids.tolist() == ids.tolist()
        assert row.log_sum_exp == pytest.approx(torch.logsumexp(whole, -1).item(), rel=1e-6)


def test_a_sampled_answer_is_the_same_as_with_all_logits(monkeypatch, tmp_path):
    """In a TensorRT session over the fakes too, where the logits of the vocabulary stay on the device."""
    (_, with_all), (_, with_top) = of("native", None), of("native")
    want = generate(ReferenceSession(with_all.network, with_all.contract), PROMPTS, SAMPLED)
    fake = Fake(monkeypatch, tmp_path, with_top.network, with_top.contract)
    with fake.open() as session:
        for one in (session, ReferenceSession(with_top.network, with_top.contract)):
            got = generate(one, PROMPTS, SAMPLED)
            assert [each.new_token_ids for each in got] == [each.new_token_ids for each in want]


def test_what_needs_all_logits_gets_them(monkeypatch, tmp_path):
    (_, with_all), (_, with_top) = of("native", None), of("native")
    fake = Fake(monkeypatch, tmp_path, with_top.network, with_top.contract)
    for settings in ({"repetition_penalty": 1.5}, {"logit_bias": {200: 50.0}}, {"temperature": 1.0, "seed": 1}):
        config = GenerationConfig(9, **settings)
        want = generate(ReferenceSession(with_all.network, with_all.contract), PROMPTS, config)
        with fake.open() as session:
            got = generate(session, PROMPTS, config)
        assert [each.new_token_ids for each in got] == [each.new_token_ids for each in want]


def test_a_greedy_step_copies_only_the_largest(monkeypatch, tmp_path):
    _, part = of("native")
    fake = Fake(monkeypatch, tmp_path, part.network, part.contract)
    with fake.open() as session:
        generate(session, [PROMPTS[0]], GenerationConfig(8))
        fake.calls.clear()
        generate(session, [PROMPTS[0]], GenerationConfig(8))
        copied = [arguments[2] for name, arguments in fake.calls if name == "cudaMemcpyAsync"]
        vocabulary = 4 * part.contract.vocab_size
    assert copied
    assert vocabulary not in copied


def test_an_encoder_decoder():
    model = tiny_seq2seq("t5")
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    start, sources = model.config.decoder_start_token_id, seq2seqs.texts(20, 7)
    parts = seq2seqs.compiled(model, top_logits=4)
    assert parts[1].contract.top_count == 5
    assert parts[0].contract.top_count == 0
    got = seq2seqs.answers(parts, [start], sources, max_new_tokens=12)
    assert got == [seq2seqs.wanted(model, source, max_new_tokens=12) for source in sources]


def test_more_than_the_vocabulary_has():
    with pytest.raises(LoweringError, match=r"top-k=2000 is not less than the model's vocabulary of .* tokens; omit"):
        of("native", 2000)


@pytest.mark.parametrize("target", ["sm89", "sm120"])
def test_an_engine_is_built(tensorrt, target):
    model = tiny_model("llama", dtype=torch.float16)
    part = compiled(model, Precision.FP16, top_logits=64)
    contract = part.contract
    assert [contract.output(name).shape for name in (TOP_LOGITS, TOP_IDS)] == [("batch", 65)] * 2
    assert contract.output(LOG_SUM_EXP).shape == ("batch",)
    file = io.BytesIO()
    build = build_engine(tensorrt, part.network, contract.profiles(), target, file)
    assert build.bytes == file.tell() > 0
