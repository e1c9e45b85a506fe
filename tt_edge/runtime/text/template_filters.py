"""Jinja's filters, tests and operators for untrusted templates: the same results, at a bounded cost. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from jinja2 import pass_context
from jinja2.filters import FILTERS
from jinja2.tests import TESTS
from jinja2.utils import _PassArg

from tt_edge.runtime.text.template_limits import MAX_BITS, METER, Lazy, Meter, exceeded

#: Filters that cost a template next to nothing, whatever their value, and make nothing of it.
_CHEAP = frozenset(["abs", "attr", "count", "d", "default", "first", "last", "length", "random"])
#: Filters from a string to one about as long.
_PLAIN = frozenset(["capitalize", "lower", "string", "trim", "upper"])
#: Filters that work while they are iterated, of which these call a filter or a test on every item.
_LAZY = frozenset(
    ["batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"]
)
_CALLING = frozenset(["map", "reject", "rejectattr", "select", "selectattr"])
#: Filters that are slow or make their value much longer, and the longest value that they take, in characters.
_MAX_INPUT = {
    **dict.fromkeys(("striptags", "title", "wordcount", "wordwrap"), 64 << 10),
    **dict.fromkeys(("e", "escape", "forceescape", "urlencode"), 512 << 10),
}
#: Filters that no chat template needs, and that are slow in ways that are hard to bound.
_LEFT_OUT = frozenset(["pprint", "urlize", "xmlattr"])
#: Tests that read all of their operands.
_READING = frozenset(["!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in"])
_READING |= {"le", "lessthan", "lower", "lt", "ne", "upper"}

_MAX_COUNT = 100_000  # of columns, lines or parts that a filter is asked for
_MAX_PATH = 16  # dots in the name of an attribute
#: The largest number as a key; beyond it, many numbers have one hash.
MAX_KEY = 1 << 60
_MAX_MADE_KEYS = 256  # keys of a mapping that are tuples and the like
_ONLY_STRINGS = {str}
_STAR = re.compile(r"%[^%a-zA-Z]*\*")
_NUMBER = re.compile(r"\d+")


def filters() -> dict[str, Callable[..., Any]]:
    """Jinja's filters, metered, with transformers' ``tojson``."""
    metered = {name: _filter(name, function) for name, function in FILTERS.items() if name not in _LEFT_OUT}
    for name, function in (("tojson", tojson), ("join", _join), ("sum", _sum)):
        metered[name] = pass_context(function)
    return metered


def tests() -> dict[str, Callable[..., Any]]:
    """Jinja's tests, those metered that are not done in a moment."""
    every: Mapping[str, Callable[..., Any]] = TESTS  # type: ignore[assignment]
    return {name: _test(function) if name in _READING else function for name, function in every.items()}


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name in _CHEAP:
        return function
    call = _with_context(function)
    if name in _PLAIN:
        return _plain_filter(function)
    lazy, calling, check = name in _LAZY, name in _CALLING, _CHECKS.get(name)
    longest = _MAX_INPUT.get(name)

    @pass_context
    def metered(context: Any, value: Any = "", *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.use(value, *args, *kwargs.values())
        if longest is not None and meter.weigh(value) > longest + 32:
            exceeded(f"gives the filter {name} more than {longest >> 10} KiB")
        if check is not None:
            check(meter, value, *args, **kwargs)
        source = Lazy(meter, value) if calling and value and not isinstance(value, Lazy) else value
        result = call(context, source, *args, **kwargs)
        if lazy and isinstance(result, Iterator):
            return Lazy(meter, result, value, *args)
        return meter.made(result)

    return metered


def _plain_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def metered(context: Any, value: Any, *args: Any) -> Any:
        meter = METER.get()
        if type(value) is not str:
            meter.use(value)
        result = function(value, *args)
        return meter.text(result) if type(result) is str else meter.made(result)

    return metered


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def metered(context: Any, value: Any, *args: Any) -> Any:
        METER.get().use(value, *args)
        return function(value, *args)

    return metered


def _with_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the template's context as its first argument, whatever it takes there itself."""
    match _PassArg.from_obj(function):
        case _PassArg.context:
            return function
        case _PassArg.eval_context:
            return lambda context, *args, **kwargs: function(context.eval_ctx, *args, **kwargs)
        case _PassArg.environment:
            return lambda context, *args, **kwargs: function(context.environment, *args, **kwargs)
    return lambda context, *args, **kwargs: function(*args, **kwargs)


def tojson(
    context: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Transformers' filter of that name; Jinja's own escapes HTML characters."""
    meter = METER.get()
    meter.use(value)
    if any(len(str(s)) > _MAX_PATH for s in separators or ()):
        exceeded("asks tojson for long separators")
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "separators": separators, "sort_keys": sort_keys}
    if indent is None:
        return str(meter.made(json.dumps(value, **options)))
    _check_width(meter, indent)
    # Python's encoder writes this in pieces anyway, and the depth that each line is indented by multiplies.
    return joined(meter, json.JSONEncoder(indent=indent, **options).iterencode(value))


def joined(meter: Meter, parts: Any) -> str:
    """The strings ``parts`` in one, stopped as soon as they are too long."""
    kept: list[str] = []
    length, parts = 0, iter(parts)
    while some := list(islice(parts, 64)):
        length += sum(map(len, some))
        meter.allow(length)
        kept += some
    return meter.text("".join(kept))


def added(meter: Meter, parts: tuple[Any, ...]) -> Any:
    """``parts[0] + parts[1] + …``"""
    if set(map(type, parts)) == _ONLY_STRINGS:
        meter.allow(sum(map(len, parts)))
        return meter.text("".join(parts))
    total = parts[0]
    for part in parts[1:]:
        total = meter.made(total + part)
    return total


def mapping(meter: Meter, *args: Any, **named: Any) -> dict[Any, Any]:
    """``dict(*args, **named)``, with keys whose hashes nobody can make collide by the thousand.

    Hashes of strings are random. Those of numbers are their residues, so large ones are refused; of what is made of them,
    tuples, there may be a few.
    """
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    if args and isinstance(args[0], Mapping):  # made here before, or by the caller
        found: dict[Any, Any] = dict(args[0])
    else:
        found, made = {}, 0
        for key, value in args[0] if args else ():
            meter.spend(2)
            if isinstance(key, int | float) and abs(key) >= MAX_KEY:
                exceeded(f"has a number beyond {MAX_KEY:,} as a key")
            if not isinstance(key, str | int | float | None):
                made += 1
                meter.use(key)
                if made > _MAX_MADE_KEYS:
                    exceeded(f"has more than {_MAX_MADE_KEYS} keys that are neither text nor number")
            found[key] = value
    return found | named


def multiplied(meter: Meter, left: Any, right: Any) -> Any:
    """``left * right``"""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(times, int):
            size = len(sequence) if isinstance(sequence, str) else meter.weigh(sequence)
            meter.allow(size * max(times, 0))
    return meter.made(left * right)


def raised(meter: Meter, left: Any, right: Any) -> Any:
    """``left ** right``"""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
        exceeded(f"makes an integer of more than {MAX_BITS:,} bits")
    return meter.made(left**right)


def remainder(meter: Meter, left: Any, right: Any) -> Any:
    """``left % right``, which formats a string."""
    if isinstance(left, str):
        _check_percent(meter, left, right)
    return meter.made(left % right)


def check_method(meter: Meter, text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a call of ``text``'s method ``name`` that would make too much; its arguments otherwise."""
    meter.use(text, *args)
    if name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        meter.allow(args[0])
    elif name == "replace" and len(args) >= 2:
        _check_replace(meter, text, *args)
    elif name == "join" and len(args) == 1:
        items = args[0] if isinstance(args[0], str) else list(args[0])
        meter.allow(meter.weigh(items) + len(text) * len(items))
        return (items,)
    return args


def check_numbers(meter: Meter, text: str) -> None:
    """Refuse a format with a width or precision in it that would make too much."""
    if len(text) > 64 << 10:
        exceeded("has a format of more than 64 KiB")
    meter.allow(sum(int(number) if len(number) < 9 else 1 << 30 for number in _NUMBER.findall(text)))


def _check_percent(meter: Meter, text: str, *values: Any, **named: Any) -> None:
    check_numbers(meter, text)
    if _STAR.search(text):
        exceeded("has a format with a variable width")
    weight = sum(meter.weigh(value) for value in (*values, *named.values()))
    names = text.count("%(")
    meter.allow(len(text) + weight * max(1, names))


def _check_replace(meter: Meter, text: str, old: Any, new: Any, most: Any = None, **_: Any) -> None:
    old, new = str(old), str(new)
    found = len(text) + 1 if not old else text.count(old)
    if isinstance(most, int) and most >= 0:
        found = min(found, most)
    meter.allow(len(text) + found * len(new))


def _check_width(meter: Meter, width: Any = 0, *_: Any, **__: Any) -> None:
    if (len(width) if isinstance(width, str) else abs(int(width))) > _MAX_COUNT:
        exceeded(f"asks for {_MAX_COUNT:,} characters and more")


def _check_indent(meter: Meter, value: Any, width: Any = 4, first: Any = False, blank: Any = False) -> None:
    _check_width(meter, width)
    columns = len(width) if isinstance(width, str) else abs(int(width))
    meter.allow(len(value) + columns * (1 + len(value.splitlines())))


def _check_wrap(
    meter: Meter, value: Any, width: Any = 79, words: Any = True, wrapstring: Any = None, hyphens: Any = True
) -> None:
    meter.allow(len(value) * (1 + len(wrapstring or "")))


def _check_round(meter: Meter, value: Any, precision: Any = 0, method: Any = "") -> None:
    if abs(int(precision)) > 300:
        exceeded("rounds to more than 300 digits")


def _check_parts(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    """Of batch and slice: the number of columns or slices."""
    for number in (*args[:1], *kwargs.values()):
        if isinstance(number, int) and number > _MAX_COUNT:
            exceeded(f"asks for more than {_MAX_COUNT:,} parts")


def _check_path(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    """Of filters that take the name of an attribute, with dots in it."""
    for name in (*args[:3], kwargs.get("attribute")):
        if isinstance(name, str) and name.count(".") > _MAX_PATH:
            exceeded(f"has the name of an attribute with more than {_MAX_PATH} dots")


def _items(context: Any, value: Any, attribute: Any) -> list[Any]:
    if attribute is None:
        return list(value)
    return list(context.environment.filters["map"](context, value, attribute=attribute))


def _join(context: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    meter = METER.get()
    meter.use(value)
    _check_path(meter, value, attribute)
    items, separator = _items(context, value, attribute), str(d)
    meter.allow(meter.weigh(items) - 32 * len(items) + len(separator) * len(items))
    return str(meter.made(separator.join(map(str, items))))


def _sum(context: Any, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    meter = METER.get()
    meter.use(value)
    _check_path(meter, value, attribute)
    return added(meter, (start, *_items(context, value, attribute)))


_CHECKS: Mapping[str, Callable[..., None]] = {
    "batch": _check_parts,
    "center": lambda meter, value, width=80: _check_width(meter, width),
    "format": _check_percent,
    "groupby": _check_path,
    "indent": _check_indent,
    "map": _check_path,
    "max": _check_path,
    "min": _check_path,
    "rejectattr": _check_path,
    "replace": lambda meter, value, *args, **kwargs: _check_replace(meter, str(value), *args, **kwargs),
    "round": _check_round,
    "selectattr": _check_path,
    "slice": _check_parts,
    "sort": _check_path,
    "unique": _check_path,
    "wordwrap": _check_wrap,
}
