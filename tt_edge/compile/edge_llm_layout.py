"""The files that NVIDIA Edge-LLM's C++ runtime needs beside an engine.

The formats are taken from the sources of version 0.9.1: ``cpp/runtime/config/llmEngineConfig.cpp`` and
``cpp/runtime/llmRuntimeUtils.cpp`` (config.json), ``cpp/runtime/llmRuntimeUtils.h`` (embedding.safetensors, one tensor called
``embedding``), ``cpp/tokenizer/tokenizer.cpp`` (processed_chat_template.json). That an engine with these files runs there is
inferred from those sources, and has not been tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from tt_edge.config import CompileConfig
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import Files, read_json, special_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = "0.9.1"


def edge_llm_files(model: PreTrainedModel, config: CompileConfig, files: Files) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, except the engine and the tokenizer files; ``files`` are the tokenizer files.

    Raises ``UnsupportedModelError`` for a RoPE type that the runtime would compute differently from the model: the runtime
    builds the table itself, from config.json.
    """
    template = ChatTemplate.from_bundle(files, special_tokens_of(read_json(files, "tokenizer_config.json")))
    yield "config.json", (json.dumps(_config(model, config), indent=2) + "\n").encode()
    embedding = model.get_input_embeddings().weight.detach().contiguous()
    yield "embedding.safetensors", save({"embedding": embedding})
    yield (
        "processed_chat_template.json",
        (json.dumps(_roles(template, model), indent=2, ensure_ascii=False) + "\n").encode(),
    )


def _config(model: PreTrainedModel, config: CompileConfig) -> dict[str, Any]:
    facts = model.config
    heads = int(facts.num_attention_heads)
    rope = getattr(facts, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise UnsupportedModelError(
            f"RoPE type {kind!r} is not computed by Edge-LLM's runtime as the model does it (0.9.1 takes llama3 for default and "
            "knows no yarn); omit --layout, where the network has the model's own table"
        )
    return {
        "model_type": str(facts.model_type),
        "edgellm_version": VERSION,
        "num_hidden_layers": int(facts.num_hidden_layers),
        "num_attention_heads": heads,
        "num_key_value_heads": int(getattr(facts, "num_key_value_heads", None) or heads),
        "head_dim": int(getattr(facts, "head_dim", None) or facts.hidden_size // heads),
        "hidden_size": int(facts.hidden_size),
        "intermediate_size": int(facts.intermediate_size),
        "vocab_size": int(facts.vocab_size),
        "max_position_embeddings": int(facts.max_position_embeddings),
        "rope_theta": float(rope.get("rope_theta", 10000.0)),
        "rope_scaling": {"rope_type": "default"},
        "partial_rotary_factor": float(rope.get("partial_rotary_factor", 1.0)),
        "kv_cache_dtype": "fp16",
        "builder_config": {
            "max_batch_size": config.limits.max_batch,
            "max_input_len": config.limits.max_input_len,
            "max_kv_cache_capacity": config.limits.max_seq_len,
        },
    }


def _roles(template: ChatTemplate | None, model: PreTrainedModel) -> dict[str, Any]:
    """The prefix and suffix of each role's text, found by rendering the chat template with marked messages."""
    roles = dict.fromkeys(("system", "user", "assistant"))
    found = {role: _around(template, role) if template else ("", "") for role in roles}
    return {
        "model_path": str(model.config.model_type),
        "roles": {role: {"prefix": prefix, "suffix": suffix} for role, (prefix, suffix) in found.items()},
        "content_types": {},
        "generation_prompt": _generation_prompt(template) if template else "",
        "default_system_prompt": "",
    }


_MARKS = {"system": "⟦system⟧", "user": "⟦user⟧", "assistant": "⟦assistant⟧"}


def _rendered(template: ChatTemplate, roles: tuple[str, ...], **variables: Any) -> str:
    messages = [{"role": role, "content": _MARKS[role]} for role in roles]
    return template.render(messages, **{"add_generation_prompt": False, **variables})


def _around(template: ChatTemplate, role: str) -> tuple[str, str]:
    """Prefix and suffix of a message of ``role``, rendered as the last message of a conversation."""
    before: dict[str, tuple[str, ...]] = {"system": (), "user": ("system",), "assistant": ("system", "user")}
    conversations = [before[role], tuple(r for r in before[role] if r != "system")]
    for earlier in conversations:  # some templates have no system role
        try:
            whole = _rendered(template, (*earlier, role))
            past = _rendered(template, earlier) if earlier else ""
        except InvalidInputError:
            continue
        if _MARKS[role] in whole and whole.startswith(past):
            prefix, _, suffix = whole[len(past) :].partition(_MARKS[role])
            return prefix, suffix
    return "", ""


def _generation_prompt(template: ChatTemplate) -> str:
    asked = _rendered(template, ("user",))
    return _rendered(template, ("user",), add_generation_prompt=True).removeprefix(asked)
