from __future__ import annotations

import json

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.network.reference.building import DecoderShape
from tests.runtime.conftest import Folder
from tests.runtime.decoders import compiled
from tt_edge.config import GenerationConfig
from tt_edge.errors import BundleError
from tt_edge.runtime.chat_template import ChatTemplate
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.reference_session import ReferenceSession
from tt_edge.runtime.tokenizer import BundleTokenizer

PROMPTS = ["The light ahead", "Die Ampel ist grün", "A pedestrian waits on the left, so the car"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bundle")
    make_tokenizer().save_pretrained(folder)
    tokenizer = BundleTokenizer.from_bundle(Folder(folder))
    network, contract = compiled(max_batch=2, max_input_len=16, shape=DecoderShape(vocabulary=512, capacity=80))
    template = ChatTemplate.from_bundle(Folder(folder), tokenizer.special_tokens)
    return LLM(ReferenceSession(network, contract), tokenizer, template)


def test_streamed_pieces_join_to_the_text(llm):
    pieces = ["" for _ in PROMPTS]

    def on_text(row: int, text: str) -> None:
        pieces[row] += text

    results = llm.generate(PROMPTS, GenerationConfig(24), on_text)
    assert pieces == [r.text for r in results]
    assert [r.prompt for r in results] == PROMPTS
    assert [r.input_ids for r in results] == [llm.tokenizer.encode(p) for p in PROMPTS]
    assert [r.text for r in results] == [llm.tokenizer.decode(r.new_token_ids) for r in results]
    assert llm.generate(PROMPTS, GenerationConfig(24))[0].new_token_ids == results[0].new_token_ids
    json.dumps([r.to_dict() for r in results])


def test_eos_is_the_bundles_unless_given(llm):
    (free,) = llm.generate(PROMPTS[:1], GenerationConfig(12, ignore_eos=True))
    stop = free.new_token_ids[3]
    (given,) = llm.generate(PROMPTS[:1], GenerationConfig(12, (stop,)))
    assert given.new_token_ids == free.new_token_ids[: free.new_token_ids.index(stop) + 1]
    other = LLM(llm.session, BundleTokenizer(llm.tokenizer.backend, {}, (stop,)))
    assert other.generate(PROMPTS[:1], GenerationConfig(12))[0].new_token_ids == given.new_token_ids
    assert given.finish_reason == "eos"


def test_chat_template(llm):
    prompt = llm.apply_chat_template([{"role": "user", "content": "Go?"}])
    assert prompt == "<|user|>Go?<|end|><|assistant|>"
    (result,) = llm.generate([prompt], GenerationConfig(2), add_special_tokens=False)
    assert result.input_ids == llm.tokenizer.encode(prompt, add_special_tokens=False)
    with pytest.raises(BundleError, match="no chat template"):
        LLM(llm.session, llm.tokenizer).apply_chat_template([])
