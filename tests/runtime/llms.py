"""A language model with random weights and a real tokenizer."""

from __future__ import annotations

from pathlib import Path

from tests.models.decoders import compiled
from tests.network.reference.building import DecoderShape
from tests.runtime.conftest import Folder
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import BundleTokenizer

CAPACITY = 80


def make_llm(folder: Path, *, capacity: int = CAPACITY, **settings) -> LLM:
    """Two slots of ``capacity`` tokens, evaluated by the reference session; ``folder`` has the tokenizer."""
    tokenizer = BundleTokenizer.from_bundle(Folder(folder))
    special = len(tokenizer.special_tokens) + 3  # <|system|> and so on, which have no role
    shape = DecoderShape(vocabulary=512, capacity=capacity, scale=0.3, tied=False, silent=special)
    network, contract = compiled(max_batch=2, max_input_len=16, shape=shape)
    template = ChatTemplate.from_bundle(Folder(folder), tokenizer.special_tokens)
    return LLM(ReferenceSession(network, contract), tokenizer, template, **settings)
