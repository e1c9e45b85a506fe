"""Bodies of requests are taken or refused with pydantic's error or the project's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import FUZZ, refused
from tests.fuzz.mutations import mutated, mutations
from tt_edge.generation_config import GenerationConfig

pydantic = pytest.importorskip("pydantic")
schemas = pytest.importorskip("tt_edge.server.parsing.schemas")
messages = pytest.importorskip("tt_edge.server.parsing.messages")
errors = pytest.importorskip("tt_edge.server.errors")

SAMPLING = {
    "model": "m",
    "n": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "logit_bias": {"5": -1.5},
    "seed": 7,
    "stop": ["a", "b"],
    "stop_token_ids": [3],
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "text"},
}
CHAT = SAMPLING | {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"role": "assistant", "content": "x"},
    ],
    "max_completion_tokens": 5,
    "logprobs": True,
    "top_logprobs": 3,
    "chat_template_kwargs": {"enable_thinking": False},
}
COMPLETION = SAMPLING | {"prompt": [[1, 2], [3]], "max_tokens": 4, "logprobs": 2, "echo": True}


@FUZZ
@given(st.booleans(), mutations)
def test_bodies(chat, mutation):
    body = mutated(json.dumps(CHAT if chat else COMPLETION).encode(), mutation)
    with refused(pydantic.ValidationError, errors.ApiError):
        if chat:
            request = schemas.ChatRequest.model_validate_json(body)
            for message in request.messages:
                assert isinstance(message.plain()["content"], list if message.images else str)
                parts = message.content if isinstance(message.content, list) else []
                urls = [part.image_url.url for part in parts if isinstance(part, messages.ImagePart)]
                assert len(urls) == message.images
                assert all(url.startswith("data:") for url in urls)
            request.config(GenerationConfig(), request.wanted_tokens or 1, request.wanted_logprobs)
        else:
            request = schemas.CompletionRequest.model_validate_json(body)
            assert len(request.prompts(1_000)) >= 1
            request.config(GenerationConfig(), request.max_tokens, request.logprobs)
