from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from examples.tiny_checkpoint import make_tokenizer
from tests.runtime.text.hostile_templates import HOSTILE
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.text import template_limits
from tt_edge.runtime.text.chat_template import ChatTemplate

CHAT = [
    {"role": "system", "content": "Be <brief>.\nAnd kind.\n\nAlways."},
    {"role": "user", "content": "Is the light grün? ✓"},
    {"role": "assistant", "content": "", "calls": [{"name": "stop", "arguments": {"at": [1, 2.5], "now": True}}]},
]

#: What is rewritten or wrapped, in the ways that templates use it.
EXPRESSIONS = """
messages[0].content + '|' + messages[1]['content'] + ('x' + 'y')
1 + 2 + 3
messages[:1] + messages[1:2] + [{'role': 'x', 'content': messages|length}]
(messages[0].content | e) + '<b>'
'a' ~ 1 ~ none ~ messages[2].calls ~ missing
messages[0].role == messages[1].role, 'light' in messages[1].content, 1 < loop_count|default(2) <= 2, 3 not in [1, 2]
messages[messages|length - 1].role, messages[-1]['calls'][0]['arguments']['at'][0], messages[::-1][0].role
messages | map(attribute='role') | join(', ')
messages | map(attribute='role') | map('upper') | list
messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first
messages | rejectattr('calls', 'defined') | list | length
messages | selectattr('calls') | list | count
[1, 2, 3, 4, 5] | batch(2, 'x') | list, [1, 2, 3, 4, 5] | slice(2) | map('list') | list
[3, 1, 2] | sort, [3, 1, 2] | sort(reverse=true) | join('-'), [1, 1, 2] | unique | list, [1, 2] | reverse | list
[1, 2, 3] | sum, messages[2].calls[0].arguments['at'] | sum, [[1], [2]] | sum(start=[]), [] | sum
messages | groupby('role') | list | length, messages[2] | dictsort | first, messages[2] | items | list | length
messages | tojson, messages[2] | tojson(indent=2), {'b': 1, 'a': 'ü'} | tojson(sort_keys=true, ensure_ascii=true)
[1, {'a': 2}] | tojson(separators=(',', ':')), messages[2].calls | tojson(indent=4)
messages[0].content | indent, messages[0].content | indent(2, true, true), messages[0].content | indent('> ', first=true)
messages[0].content | replace('.', '!'), messages[0].content | replace('.', '!', 1), 'aaa'.replace('a', 'bb')
messages[0].content | trim | upper | lower | capitalize | title, messages[1].content | truncate(12), 'x' | center(5)
messages[0].content.split('\\n'), ', '.join(['a', 'b']), ','.join(messages | map(attribute='role')), 'x'.ljust(3) + '|'
'%s is %d' % ('a', 1), '%s' | format('a'), '{} {x:>4}'.format(1, x='b'), '{a}'.format_map({'a': 1}), '%(a)s' % {'a': 1}
2 ** 10, 7 % 3, 7 // 2, 7 / 2, -3, 'ab' * 3, [0] * 2, 2 * 3, 2.0 ** 0.5, 1.25 | round(1)
dict(a=1, b=[2]), {'a': {'b': 1}}.a.b, {'x': 1}.get('y', 'z'), {'x': 1}.keys() | list, (1, (2, 3))
messages[0].content is string, messages is mapping, 3 is divisibleby 3, 2 is in [2], 'a' is eq('a'), x is defined
messages[1].content.startswith('Is'), messages[0].content.splitlines() | last, '  a '.strip(), 'abc'[1:], 'abc'[-1]
range(3) | list, range(1, 6, 2) | join, 'abc' | list, 'a b c' | wordcount, 'a b c d' | wordwrap(3), '5' | int + 1
['a', 'b'] | map('replace', 'a', 'c') | list, [1, 2, 3] | select('odd') | list, [1, 2, 3] | reject('gt', 1) | list
'yes' if messages and not missing else 'no', messages | selectattr('role', 'in', ['user']) | list | length
dict.fromkeys(['a', 'b'], 1), dict([('a', 1), (2, 3)], c=4), dict({'a': 1}), {'a': 1}.copy(), [1, 2].index(2), 3 .real
cycler('a', 'b').next(), joiner(', ')(), none, true, 1.0, [none, true], missing | default('d'), '' | default('e', true)
'<a>' | e, '<a>' | escape | safe, 'a b' | urlencode, ('<a>' | safe) ~ '<b>', '<p>x</p>' | striptags
"""

STATEMENTS = {
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.revindex }}{{ m.role }}"
    "{{ loop.nextitem.role if not loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% else %}none{% endfor %}",
    "empty loop": "{% for m in [] %}x{% else %}none{% endfor %}{% for m in missing %}x{% else %}none{% endfor %}",
    "filtered": "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ loop.length }}{{ m.role }}{% endfor %}",
    "recursive": "{% for x in [[1, [2]], [3]] recursive %}"
    "{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}",
    "unpacked": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "macro": "{% macro m(x, y=2) %}[{{ x }}{{ y }}{{ varargs }}{{ caller() if caller }}]{% endmacro %}"
    "{{ m(1) }}{{ m(1, 2, 3) }}{% call m('c') %}inside{% endcall %}{{ m(1) | length }}{{ m.name }}",
    "set block": "{% set b %}a{{ 1 }}{% for i in range(3) %}{{ i }}{% endfor %}{% endset %}{{ b }}{{ b | upper }}",
    "filter block": "{% filter upper %}abc{{ messages[0].role }}{% endfilter %}",
    "namespace": "{% set ns = namespace(t='', l=[]) %}{% for m in messages %}{% set ns.t = ns.t + m.role %}"
    "{% set ns.l = ns.l + [m] %}{% endfor %}{{ ns.t }}{{ ns.l | length }}",
    "block": "{% block a %}{{ messages[0].role }}{% endblock %}{{ self.a() }}",
    "with": "{% with x = messages[0] %}{{ x.role }}{% endwith %}",
    "whitespace": "  {%- if true %}\n  a\n  {% endif %}\n\n b {{- ' c ' -}} d\n",
    "break": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
}


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return make_tokenizer()


def same_as_transformers(tokenizer, source: str) -> None:
    tokenizer.chat_template = source
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert ChatTemplate(source, {}).render(CHAT, add_generation_prompt=False) == expected


@pytest.mark.parametrize("expression", EXPRESSIONS.strip().splitlines())
def test_expressions_render_as_in_transformers(tokenizer, expression):
    same_as_transformers(tokenizer, "{{ " + expression + " }}")
    # As a list's items, expressions are printed in full, with their types.
    same_as_transformers(tokenizer, "{% for x in [" + expression + "] %}{{ [x] }}{% endfor %}")


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_render_as_in_transformers(tokenizer, name):
    same_as_transformers(tokenizer, STATEMENTS[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_an_error(name, monkeypatch):
    monkeypatch.setattr(template_limits, "MAX_STEPS", 50_000)  # sooner than for real, but by the same checks
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.3)
    start = time.thread_time()
    with pytest.raises((InvalidInputError, BundleError)) as caught:
        ChatTemplate(HOSTILE[name], {}).render(CHAT)
    assert time.thread_time() - start < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


#: Those that come closest to the limits of memory and time.
WORST = ["numbers in a macro", "wide characters", "many slices", "long body of lookups", "sort", "doubling recursion"]

MEASURE = """
import json, resource, sys, time
from tests.runtime.text.hostile_templates import HOSTILE
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.text.chat_template import ChatTemplate
ChatTemplate("{{ 1 }}", {}).render([])
base, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for name in json.loads(sys.argv[1]):
    start = time.thread_time()
    try:
        ChatTemplate(HOSTILE[name], {}).render([{"role": "user", "content": "hello"}])
    except InvalidInputError:
        seconds[name] = time.thread_time() - start
print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024, seconds]))
"""


def test_worst_templates_stay_within_two_seconds_and_200_mb():
    done = subprocess.run([sys.executable, "-c", MEASURE, json.dumps(WORST)], capture_output=True, check=True)
    mebibytes, seconds = json.loads(done.stdout)
    assert mebibytes < 200
    assert set(seconds) == set(WORST)
    assert max(seconds.values()) < 2


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}", "4 MiB"),
        ("{% for i in range(99999) %}{% for j in range(99) %}{% endfor %}{% endfor %}", "1,000,000 steps"),
        ("{{ 2 ** 5000 }}", "4,096 bits"),
        ("{{ 'x' * 5000000 }}", "4 MiB"),
    ],
)
def test_errors_name_the_limit(source, limit):
    with pytest.raises(InvalidInputError, match=f"more than {limit}, .*shorten the messages"):
        ChatTemplate(source, {}).render(CHAT)


def test_long_conversations_are_within_the_limits():
    chat = [{"role": ("user", "assistant")[i % 2], "content": "How far may I go? " * 50} for i in range(2000)]
    source = "{% for m in messages %}" + "{% if m.role == 'tool' %}{{ 1 }}{% endif %}" * 60
    source += "{{ '<|' + m.role + '|>' + m.content | trim }}{% endfor %}"
    assert len(ChatTemplate(source, {}).render(chat)) > 1_700_000


def test_renderings_are_metered_apart():
    template = ChatTemplate("{% for i in range(1000) %}{% for j in range(400) %}{% endfor %}{% endfor %}", {})
    for _ in range(4):
        template.render(CHAT)


def test_a_source_too_long_is_refused():
    with pytest.raises(BundleError, match="70,000 characters"):
        ChatTemplate("x" * 70_000, {})


def test_a_source_of_too_many_tokens_is_refused_before_it_is_compiled():
    start = time.thread_time()
    with pytest.raises(BundleError, match="more than 16,000 tokens"):
        ChatTemplate("{{ 1" + "+1" * 30_000 + " }}", {})
    assert time.thread_time() - start < 1
    ChatTemplate("{{ 1 }}" * 5_000, {})
