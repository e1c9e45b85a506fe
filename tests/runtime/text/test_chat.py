"""Chats as models are given them: the ids of transformers' ``apply_chat_template(tokenize=True)``, and no text is lost."""

from __future__ import annotations

import json

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.runtime.conftest import Folder
from tests.runtime.text.template_shapes import TEMPLATES
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.text.chat import render_chat
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import BundleTokenizer

CHAT = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Is the light grün? ✓"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "S"},
]
TOOLS = [{"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}]


def parts(messages):
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("transformers")
    return make_tokenizer()


def ours(theirs) -> BundleTokenizer:
    return BundleTokenizer(theirs._tokenizer, dict(theirs.special_tokens_map), ())


def ids(theirs, messages, **variables):
    """What ``LLM.encode`` makes of a chat."""
    template = ChatTemplate(theirs.chat_template, theirs.special_tokens_map)
    chat = render_chat(template, messages, **variables)
    return ours(theirs).encode(chat.text, add_special_tokens=chat.add_special_tokens)


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers_and_every_text_is_in_them(theirs, name):
    """Whatever form the contents have, the ids are those of the form that the template shows in full."""
    theirs.chat_template = TEMPLATES[name]
    found = []
    for given in (CHAT, parts(CHAT)):
        prompt = ids(theirs, given)
        text = theirs.decode(prompt)
        assert all(message["content"] in text for message in CHAT)
        found.append(prompt)
    assert found[0] == found[1]
    candidates = []
    for form in (CHAT, parts(CHAT), [CHAT[0], *parts(CHAT[1:])]):
        try:
            candidates.append(theirs.apply_chat_template(form, add_generation_prompt=True, return_dict=False))
        except Exception:  # a template that does not take the form
            continue
    assert found[0] in candidates


def test_variables_tools_and_calls_are_those_of_transformers(theirs):
    theirs.chat_template = TEMPLATES["tools"]
    call = {"type": "function", "function": {"name": "stop", "arguments": {"at": 3}}}
    chat = [
        CHAT[1],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "stop", "content": "done"},
    ]
    expected = theirs.apply_chat_template(chat, tools=TOOLS, add_generation_prompt=True, return_dict=False)
    assert ids(theirs, chat, tools=TOOLS) == expected
    theirs.chat_template = TEMPLATES["chatml"]
    with pytest.raises(InvalidInputError, match="message 2 of 3, which has role 'assistant'"):
        ids(theirs, [CHAT[1], {**chat[1], "content": ""}, CHAT[3]])
    with pytest.raises(InvalidInputError, match="does not show the tools to the model; omit tools"):
        ids(theirs, CHAT, tools=TOOLS)
    with pytest.raises(InvalidInputError, match="tools is not a list of dicts"):
        ids(theirs, CHAT, tools=[len])
    theirs.chat_template = TEMPLATES["qwen3"]
    expected = theirs.apply_chat_template(CHAT, enable_thinking=False, add_generation_prompt=True, return_dict=False)
    assert ids(theirs, CHAT, enable_thinking=False) == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("{{ c.arguments | tojson }}", '{"at": 3}'),
        ("{{ '' + c.arguments }}", '{"at": 3}'),  # takes text only, as DeepSeek's
        ("{{ c.arguments }}", '{"at": 3}'),  # would print Python's form of an object
        ("{% for k, v in c.arguments.items() %}{{ k }}={{ v }};{% endfor %}", "at=3;"),
        ("", None),
    ],
)
def test_arguments_of_a_call_come_in_the_form_that_the_template_takes(shown, expected):
    call = {"type": "function", "function": {"name": "stop", "arguments": {"at": 3}}}
    source = (
        "{% for m in messages %}{{ m.content }}{% for t in m.tool_calls or [] %}{% set c = t.function %}{{ c.name }} S"
        "{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source.replace("S", shown), {})
    chat = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [call]}]
    if expected is None:
        with pytest.raises(InvalidInputError, match="leaves out the text or a tool call of message 2"):
            render_chat(template, chat)
    else:
        assert render_chat(template, chat).text == f"{CHAT[1]['content']}stop {expected}"


@pytest.mark.parametrize("spaces", ["", " ", "\n\n"])
@pytest.mark.parametrize("name", ["chatml", "llama-3", "gemma", "qwen2-vl"])
def test_the_last_message_is_continued_as_in_transformers(theirs, name, spaces):
    theirs.chat_template = TEMPLATES[name]
    chat = [*CHAT[1:2], {"role": "assistant", "content": "The light is" + spaces}]
    expected = theirs.apply_chat_template(chat, continue_final_message=True, return_dict=False)
    assert ids(theirs, chat, continue_final_message=True) == expected
    assert ids(theirs, parts(chat), continue_final_message=True) == expected


def test_what_cannot_be_continued_is_refused(theirs):
    theirs.chat_template = TEMPLATES["qwen3"]
    with pytest.raises(InvalidInputError, match="changes the last message"):
        ids(
            theirs,
            [
                CHAT[1],
                {"role": "assistant", "content": "<think>a</think>"},
            ],
            continue_final_message=True,
        )
    theirs.chat_template = TEMPLATES["tools"]
    with pytest.raises(InvalidInputError, match="needs a last message with text"):
        ids(theirs, [{"role": "assistant", "content": None}], continue_final_message=True)
    with pytest.raises(InvalidInputError, match="exclude each other"):
        ids(theirs, CHAT, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("source", "number", "role"),
    [
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", 1, "system"),
        ("{{ messages[-1].content }}", 1, "system"),
        ("{% for m in messages %}{{ m.role }}:{% endfor %}", 1, "system"),
        ("{% for m in messages %}{{ m.content[:20] }}{% endfor %}", 2, "user"),
        ("{% for m in messages %}{% if m.role != 'user' %}{{ m.content }}{% endif %}{% endfor %}", 2, "user"),
    ],
)
def test_a_chat_that_would_lose_text_is_refused(source, number, role):
    chat = [*CHAT[:1], {"role": "user", "content": "far more than twenty characters, of which the last ones count"}]
    chat[0] = {"role": "system", "content": "Short."}
    with pytest.raises(
        InvalidInputError, match=f"leaves out the text of message {number} of 2, which has role '{role}'"
    ):
        render_chat(ChatTemplate(source, {}), chat)


def test_a_templates_own_refusal_is_the_error():
    with pytest.raises(InvalidInputError, match=r"refuses the messages .*roles must alternate"):
        render_chat(ChatTemplate(TEMPLATES["gemma"], {"bos_token": "<b>"}), [CHAT[1], CHAT[3]])
    for empty in ([], ["hello"], [None]):
        with pytest.raises(InvalidInputError, match="a chat is a list of one or more dicts"):
            render_chat(ChatTemplate("", {}), empty)


def test_parts_are_never_printed_as_data():
    """ChatML with text as parts prints Python's form of the list in transformers; here the text is joined."""
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    content = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert render_chat(template, [{"role": "user", "content": content}]).text == "one two"
    image = {"type": "image", "image": "a.png"}
    with pytest.raises(InvalidInputError, match="leaves out the text of message 1"):
        render_chat(template, [{"role": "user", "content": [image, *content]}])


def test_images_come_along_in_either_form():
    template = ChatTemplate(TEMPLATES["qwen2-vl"], {})
    content = [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "or"},
        {"type": "image", "image": "b.png"},
    ]
    chat = render_chat(template, [{"role": "user", "content": content}])
    assert chat.text == "<|im_start|>user\n<|image|>or<|image|><|im_end|>\n<|im_start|>assistant\n"
    assert list(chat.images) == ["a.png", "b.png"]


@pytest.mark.parametrize("writes_bos", [True, False])
def test_begin_tokens_of_a_processors_chat(tmp_path, writes_bos):
    """A tokenizer's own ``apply_chat_template`` adds no BOS; a processor's does, where the template has not."""
    transformers = pytest.importorskip("transformers")
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", pair=None, special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = ("{{ bos_token }}" if writes_bos else "") + TEMPLATES["llava-1.5"]

    class Processor(transformers.ProcessorMixin):
        def __init__(self, tokenizer, chat_template=None):
            super().__init__(tokenizer, chat_template=chat_template)

    chat = parts(CHAT)
    of_processor = Processor(tokenizer, chat_template=tokenizer.chat_template).apply_chat_template(
        chat, tokenize=True, return_dict=False, add_generation_prompt=True
    )
    of_tokenizer = tokenizer.apply_chat_template(chat, return_dict=False, add_generation_prompt=True)
    assert ids(tokenizer, chat, has_processor=True) == of_processor
    assert ids(tokenizer, chat) == of_tokenizer
    assert len(of_processor) - len(of_tokenizer) == (0 if writes_bos else 1)


def test_a_template_of_its_own_for_tools(theirs, tmp_path):
    several = [
        {"name": "tool_use", "template": "tools: {{ tools | length }}"},
        {"name": "default", "template": "no tools"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    template = ChatTemplate.from_bundle(Folder(tmp_path), {})
    assert (template.render(CHAT), template.render(CHAT, tools=TOOLS)) == ("no tools", "tools: 1")
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools in a file")
    template = ChatTemplate.from_bundle(Folder(tmp_path), {})
    assert (template.render(CHAT), template.render(CHAT, tools=TOOLS)) == ("file", "tools in a file")


def test_reasoning_and_empty_entries_are_as_in_transformers(theirs):
    theirs.chat_template = (
        "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.reasoning_content }}{{ m.thinking }}"
        "{{ 'x' if 'name' in m }};{% endfor %}"
    )
    chat = [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b", "reasoning": "c"}]
    expected = theirs.apply_chat_template(chat, return_dict=False, add_generation_prompt=True)
    assert ids(theirs, chat) == expected
