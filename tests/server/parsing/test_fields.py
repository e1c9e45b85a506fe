"""Every field of a request is honoured or refused by name, in OpenAI's form; ``null`` is as if absent."""

from __future__ import annotations

import gzip
import json
from unittest.mock import Mock

import pytest

from tests.runtime.text.template_shapes import TEMPLATES
from tests.server.conftest import MODEL, serving
from tests.server.parsing.test_limits import get, post
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.server.answers.replies import ChatReply

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Go?"}], "max_tokens": 3}
TEXT = {"model": MODEL, "prompt": "The light", "max_tokens": 3}


TOOL = {
    "type": "function",
    "function": {"name": "stop", "description": "Stop", "parameters": {"type": "object", "properties": {"at": {}}}},
}


def calls(arguments):
    return [{"id": "call_1", "type": "function", "function": {"name": "stop", "arguments": arguments}}]


def chat(served, **body):
    return post(f"{served.url}/v1/chat/completions", {**CHAT, **body})[:2]


def text(served, **body):
    return post(f"{served.url}/v1/completions", {**TEXT, **body})[:2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"min_tokens": 2}, "min_tokens"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": TOOL}, "tool_choice"),
        ({"store": True}, "store"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": calls("[1]")}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": calls("{")}]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": calls("{}")}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x", "mood": "bad"}]}, "messages.0.mood"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]},
            "messages.0.content.parts.0.text.cache_control",
        ),
        ({"messages": "hello"}, "messages"),
        ({"n": True}, "n"),
    ],
)
def test_refused_by_name(served, body, param):
    status, answer = chat(served, **body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"
    assert "\n" not in answer["error"]["message"]


def test_what_asks_for_nothing_is_taken(served):
    inert = {
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "store": False,
        "user": "me",
        "metadata": {"a": "b"},
        "best_of": 1,
        "no_such_field": None,
    }
    answer = {"role": "assistant", "content": "Yes.", "tool_calls": None, "refusal": None, "annotations": []}
    assert chat(served, **inert, messages=[*CHAT["messages"], answer, *CHAT["messages"]])[0] == 200


def test_null_is_as_if_absent(served):
    plain = chat(served, temperature=0)[1]["choices"][0]["message"]
    nulls = dict.fromkeys(("n", "stream", "stop", "top_p", "logprobs", "top_logprobs", "logit_bias", "seed", "tools"))
    status, answer = chat(served, temperature=0, **nulls)
    assert (status, answer["choices"][0]["message"]) == (200, plain)
    assert len(text(served, max_tokens=None, n=None, echo=None, ignore_eos=True)[1]["choices"]) == 1


def test_tools_and_their_calls_reach_the_template(served, folder, monkeypatch):
    """The prompt is the one of transformers, which takes arguments as an object; a template that shows no tools is refused."""
    from transformers import AutoTokenizer

    theirs, llm = AutoTokenizer.from_pretrained(folder), served.model.llm
    messages = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": calls('{"at": 3, "how": "é"}')},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    status, answer = chat(served, tools=[TOOL])
    assert (status, "does not show the tools to the model; omit tools" in answer["error"]["message"]) == (400, True)
    status, answer = chat(served, messages=messages)
    assert (status, "the text or a tool call of message 2 of 3" in answer["error"]["message"]) == (400, True)
    monkeypatch.setattr(llm, "chat_template", ChatTemplate(TEMPLATES["tools"], theirs.special_tokens_map))
    monkeypatch.setattr(llm, "encode", encode := Mock(side_effect=llm.encode))
    status, answer = chat(served, messages=messages, tools=[TOOL], max_tokens=1)
    plain = [dict(message) for message in messages]
    plain[1]["tool_calls"] = calls({"at": 3, "how": "é"})
    expected = theirs.apply_chat_template(
        plain, tools=[TOOL], chat_template=TEMPLATES["tools"], add_generation_prompt=True, tokenize=False
    )
    if status == 400:  # the model's context is short
        assert answer["error"]["code"] == "context_length_exceeded"
    else:
        assert "message.tool_calls is never set" in answer["warnings"][0]
    assert encode.call_args.args[0].text == expected
    assert '"at": 3' in expected


def test_the_last_message_is_continued(served):
    """vLLM's ``continue_final_message``: the same as the prompt up to there."""
    messages = [*CHAT["messages"], {"role": "assistant", "content": "The light is"}]
    llm = served.model.llm
    want = llm.chat(messages, GenerationConfig(3), continue_final_message=True)
    status, answer = chat(served, messages=messages, continue_final_message=True, temperature=0)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, want.text)
    assert answer["usage"]["prompt_tokens"] == len(want.input_ids)
    status, answer = chat(served, messages=messages, continue_final_message=True, add_generation_prompt=True)
    assert (status, "exclude each other" in answer["error"]["message"]) == (400, True)


@pytest.mark.parametrize("prompt", [[-1], [2**70], [[3, -1]], [[3], [2**70]], [0.5], [True], [None], [[]], {}, 5, []])
def test_prompts_that_are_none(served, prompt):
    status, answer = text(served, prompt=prompt)
    assert status == 400
    assert answer["error"]["param"].startswith("prompt")


def test_a_chat_without_a_template(served, monkeypatch):
    monkeypatch.setattr(served.model.llm, "chat_template", None)
    status, answer = chat(served)
    assert (status, answer["error"]["message"]) == (
        400,
        f"model '{MODEL}' has no chat template; send a prompt to /v1/completions",
    )


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/engines", "GET", 404),
        ("/nothing", "GET", 404),
        ("/v1/completions", "GET", 405),
        ("/v1/models", "POST", 405),
    ],
)
def test_paths_and_methods_that_are_not_here(served, path, method, status):
    if method == "GET":
        found, body = get(served.url + path)
        answer = json.loads(body)
    else:
        found, answer, _ = post(served.url + path, {})
    assert found == status
    assert answer["error"]["type"] == "invalid_request_error"
    assert path in answer["error"]["message"]
    if status == 404:
        assert "there are /v1/chat/completions, /v1/completions, " in answer["error"]["message"]


def test_a_defect_is_an_error_in_openais_form(served, monkeypatch):
    monkeypatch.setattr(served.model.llm.tokenizer, "encode", lambda *_, **__: 1 / 0)
    status, answer = text(served)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "ZeroDivisionError" in answer["error"]["message"]


def test_gzip(served):
    body = gzip.compress(json.dumps(TEXT).encode())
    url = f"{served.url}/v1/completions"
    gzipped = {"Content-Encoding": "gzip"}
    assert post(url, body, **gzipped)[1]["choices"] == text(served)[1]["choices"]
    half = len(json.dumps(TEXT)) // 2
    members = [gzip.compress(part) for part in (json.dumps(TEXT)[:half].encode(), json.dumps(TEXT)[half:].encode())]
    assert post(url, b"".join(members), **gzipped)[1]["choices"] == text(served)[1]["choices"]
    assert post(url, body + b"more", **gzipped)[1]["error"]["message"].startswith("the body is not gzip")
    assert post(url, body[:-9], **gzipped)[0] == 400
    assert post(url, b"{}", **gzipped)[1]["error"]["message"].startswith("the body is not gzip")
    bomb = gzip.compress(b" " * (64 << 20))
    status, answer, _ = post(url, bomb, **gzipped)
    assert (status, answer["error"]["message"]) == (
        413,
        "the body is larger than 1048576 bytes when decompressed; send less",
    )
    status, answer, headers = post(url, body, **{"Content-Encoding": "br"})
    assert (status, headers["accept-encoding"]) == (415, "gzip, identity")
    assert "content encoding 'br' is not supported" in answer["error"]["message"]


def test_more_answers_than_can_ever_run(folder):
    with serving(folder, max_waiting=4) as served:  # and two slots
        status, answer = chat(served, n=16)
        assert (status, answer["error"]["param"]) == (400, "n")
        assert "16 answers, and this server takes 6 at one time" in answer["error"]["message"]
        assert len(chat(served, n=6)[1]["choices"]) == 6
        assert text(served, prompt=["a"] * 7)[1]["error"]["param"] == "prompt"
        assert text(served, prompt=["a"] * 2, n=4)[0] == 400


def test_too_long_for_the_context(served):
    """LiteLLM and langchain-openai look for the code, or for the first sentence."""
    cases = [
        chat(served, messages=[{"role": "user", "content": "light " * 99}]),
        chat(served, messages=[{"role": "user", "content": "x" * 900_000}]),
        chat(served, max_tokens=500),
        text(served, prompt="light " * 99),
        text(served, prompt="x" * 900_000),
        text(served, max_tokens=79),
        text(served, prompt=[5] * 90),
    ]
    for status, answer in cases:
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert answer["error"]["message"].startswith("This model's maximum context length is 80 tokens. However, you")
        assert "--" not in answer["error"]["message"], "the client has no command line"


def test_a_token_that_is_half_of_a_character_has_its_bytes(served):
    """Of both halves of ``é``, the bytes that join to it, in entries and among the likeliest."""
    tokenizer = served.model.llm.tokenizer
    halves = tokenizer.encode("é", add_special_tokens=False)
    assert len(halves) == 2
    tokens = [Token(half, -1.0, ((half, -1.0),)) for half in halves]
    entries = ChatReply(MODEL, tokenizer).piece(0, "é", tokens)["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[195], [169]]
    assert [entry["top_logprobs"][0]["bytes"] for entry in entries] == [[195], [169]]
