"""Comparing a bundle's text handling with transformers: token ids of unusual texts and of a chat, and greedy text with the
checkpoint's own generation settings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tt_edge.checkpoint_generation import not_applied
from tt_edge.compile.odd_texts import ODD_TEXTS
from tt_edge.compile.parity.references.loading import greedy
from tt_edge.errors import TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import BundleTokenizer, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.bundle.reader import Bundle
    from tt_edge.network.ir import Network
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline

#: A prompt and a chat whose continuations are compared.
_PROMPT = "The light ahead is red."
_MESSAGES = [{"role": "user", "content": "What is 17 plus 25?"}]


@dataclass(frozen=True)
class TokenizerParity:
    """Token ids of ``texts`` texts, compared with transformers' own tokenizer. ``differing`` are the texts that differ;
    ``chat`` is the result for a chat (``None``: there is no chat template)."""

    texts: int
    differing: tuple[str, ...]
    chat: bool | None

    @property
    def passed(self) -> bool:
        return not self.differing and self.chat is not False


@dataclass(frozen=True)
class SettingsParity:
    """Greedy tokens with the checkpoint's own generation settings, compared with transformers: the token where the first
    differing prompt diverges (``None``: none differs, except for ties), and the settings that are ``not_applied``."""

    tokens: int
    first_difference: int | None
    not_applied: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.first_difference is None or bool(self.not_applied)


def compare_tokenizer(theirs: Any, bundle: Bundle) -> TokenizerParity:
    """Compare the bundle's tokenizer with ``theirs``, transformers' for the checkpoint, on ``ODD_TEXTS`` and all added tokens."""
    ours = BundleTokenizer.from_bundle(bundle)
    added = [str(token) for token in theirs.get_added_vocab()]
    texts = [*ODD_TEXTS, *(f"a{token}b {token}" for token in added[:256])]
    differing = []
    for text in texts:
        for special in (True, False):
            if ours.encode(text, add_special_tokens=special) != theirs(text, add_special_tokens=special)["input_ids"]:
                differing.append(text)
                break
    return TokenizerParity(len(texts), tuple(differing), _same_chat(theirs, ours, bundle))


def _same_chat(theirs: Any, ours: BundleTokenizer, bundle: Bundle) -> bool | None:
    template = ChatTemplate.from_bundle(bundle, ours.special_tokens)
    if template is None or not theirs.chat_template:
        return None
    try:
        wanted = theirs.apply_chat_template(_MESSAGES, add_generation_prompt=True, tokenize=False)
    except Exception:  # a template that wants other messages raises whatever it likes
        return None
    try:
        text = template.render(_MESSAGES)
    except TTEdgeError:
        return False
    ids = theirs(wanted, add_special_tokens=False)["input_ids"]
    return bool(text == wanted and ours.encode(text, add_special_tokens=False) == ids)


def compare_settings(
    model: PreTrainedModel,
    theirs: Any,
    bundle: Bundle,
    network: Network,
    new_tokens: int,
    logit_error: float,
    source: SourcePipeline | None = None,
) -> SettingsParity:
    """Compare greedy generation with the checkpoint's own generation settings, on transformers' token ids.

    Two tokens tie if their scores in transformers differ by at most four times ``logit_error``, the largest error of a
    logit. ``source`` encodes the sources of an encoder-decoder.
    """
    settings = read_json(bundle, "generation_config.json")
    config = replace(GenerationConfig.of_checkpoint(settings), temperature=0.0, max_new_tokens=new_tokens)
    contract, left = bundle.manifest.contract, tuple(not_applied(settings))
    room = max(1, min(contract.max_input_len, contract.max_seq_len - new_tokens))
    if source is not None:
        room = source.encoder.contract.max_source_len
    llm = LLM(ReferenceSession(network, contract), BundleTokenizer.from_bundle(bundle), source=source)
    compared = 0
    for ids in [found[:room] for found in _prompts(theirs)]:
        given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        wanted, scores = greedy(model, given, new_tokens)
        request = llm.text_request(llm.encoded_ids(ids), config)
        for _ in llm.run([request]):
            pass
        row = list(request.completion().new_token_ids)
        compared += len(wanted)
        if row == wanted:
            continue
        shorter = min(len(wanted), len(row))
        first = next((i for i, (a, b) in enumerate(zip(wanted, row, strict=False)) if a != b), shorter)
        margin = float(scores[first][wanted[first]] - scores[first][row[first]]) if first < shorter else float("inf")
        if not margin <= 4 * logit_error:
            return SettingsParity(compared, first, left)
    return SettingsParity(compared, None, left)


def _prompts(theirs: Any) -> list[list[int]]:
    """Token ids of a text and, where there is a template, of a chat."""
    found: list[list[int]] = [theirs(_PROMPT)["input_ids"]]
    if theirs.chat_template:
        with suppress(Exception):  # a template that wants other messages raises whatever it likes
            text = theirs.apply_chat_template(_MESSAGES, add_generation_prompt=True, tokenize=False)
            found.append(theirs(text, add_special_tokens=False)["input_ids"])
    return [ids for ids in found if ids]
