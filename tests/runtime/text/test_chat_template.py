from __future__ import annotations

import json

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.runtime.conftest import Folder
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.text.chat_template import ChatTemplate

CHAT = [
    {"role": "system", "content": 'Be <brief> & "kind".'},
    {"role": "user", "content": "  Is the light grün? ✓ "},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Sure?"},
]
TOOLS = [{"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}]

#: One template a habit of Hugging Face templates.
TEMPLATES = {
    "chatml": (
        "{%- for message in messages %}\n"
        "    {%- if loop.first and message.role != 'system' %}{{ 'default\\n' }}{%- endif %}\n"
        "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "blocks": "{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m.content }}\n  {% endif %}\n{% endfor %}\n",
    "special_tokens": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ messages | tojson }}",
    "loopcontrols": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
        "{{ ns.n }}{{ undefined_variable }}{{ messages[::-1][0].content }}{{ documents is none }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "date": "{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_as_transformers_does(name, prompt):
    pytest.importorskip("transformers")
    theirs = make_tokenizer()
    theirs.chat_template = TEMPLATES[name]
    ours = ChatTemplate(TEMPLATES[name], {"bos_token": "<|begin|>", "eos_token": "<|end|>"})
    expected = theirs.apply_chat_template(CHAT, tools=TOOLS, tokenize=False, add_generation_prompt=prompt)
    assert ours.render(CHAT, tools=TOOLS, add_generation_prompt=prompt) == expected


def test_variables_reach_the_template():
    template = ChatTemplate("{{ enable_thinking }}", {})
    assert template.render(CHAT, enable_thinking=False) == "False"


def test_template_file_goes_before_the_setting(tmp_path):
    folder = Folder(tmp_path)
    assert ChatTemplate.from_bundle(folder, {}) is None
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert ChatTemplate.from_bundle(folder, {}).render(CHAT) == "default"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "setting"}))
    assert ChatTemplate.from_bundle(folder, {}).render(CHAT) == "setting"
    (tmp_path / "chat_template.jinja").write_text("file ✓")
    assert ChatTemplate.from_bundle(folder, {}).render(CHAT) == "file ✓"


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('roles must\n alternate') }}", "{{ messages[0].content + 1 }}", "{{ nothing.at.all }}"],
)
def test_a_refused_conversation_is_one_line(source):
    with pytest.raises(InvalidInputError) as caught:
        ChatTemplate(source, {}).render(CHAT)
    assert "\n" not in str(caught.value)


def test_messages_must_be_dicts():
    with pytest.raises(InvalidInputError, match="not a dict"):
        ChatTemplate("", {}).render(["hello"])


def test_a_broken_template_is_the_bundles_fault():
    with pytest.raises(BundleError, match="does not compile"):
        ChatTemplate("{% if %}", {})


@pytest.mark.parametrize(
    "source", ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"]
)
def test_templates_are_sandboxed(source):
    with pytest.raises(InvalidInputError, match="refuses"):
        ChatTemplate(source, {}).render(CHAT)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"\xff"),
        ("tokenizer_config.json", b'{"chat_template": "a", "chat_template": "b"}'),
    ],
)
def test_an_unreadable_template_is_the_bundles_fault(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        ChatTemplate.from_bundle(Folder(tmp_path), {})


def test_entries_that_are_no_templates_are_passed_over(tmp_path):
    entries = ["text", {"name": "default", "template": 1}, {"name": ["default"], "template": "a"}, {"name": {}}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    assert ChatTemplate.from_bundle(Folder(tmp_path), {}) is None
