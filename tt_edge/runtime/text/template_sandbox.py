"""The Jinja environment of chat templates. Templates come with a checkpoint: they are code that nobody vouches for.

Jinja's immutable sandbox keeps a template from attributes and files; it does not keep it from ``'x' * 10 ** 10``. This
environment also holds every rendering to the limits of ``template_limits``: the syntax tree is rewritten so that loops,
literals, comparisons and concatenation go through metered functions, and filters, calls and operators are metered where
Jinja has a hook for it. What transformers' ``apply_chat_template`` (5.23) renders, this renders alike. Torch-free.
"""
# ruff: noqa: N802, N815 (names of Jinja's visitor)

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tt_edge.runtime.text import template_filters
from tt_edge.runtime.text.template_limits import MAX_SOURCE, MAX_TOKENS, METER, Meter, exceeded

#: What a template may reach of Python's own types. All else is refused: what grows (``ljust`` and the like are bounded where
#: they are called), hashes (``fromkeys``), gives bytes, or changes what it is called on.
_ATTRIBUTES: dict[type[Any], frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii isdecimal "  # noqa: SIM905
        "isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix "
        "replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper "
        "zfill".split()
    ),
    bool: frozenset(["imag", "real"]),
    int: frozenset(["bit_length", "denominator", "imag", "numerator", "real"]),
    float: frozenset(["imag", "is_integer", "real"]),
    dict: frozenset(["copy", "get", "items", "keys", "values"]),
    list: frozenset(["copy", "count", "index"]),
    tuple: frozenset(["count", "index"]),
    range: frozenset(["count", "index", "start", "step", "stop"]),
}
_OPERATORS: dict[str, Callable[[Meter, Any, Any], Any]] = {
    "*": template_filters.multiplied,
    "**": template_filters.raised,
    "%": template_filters.remainder,
}
_MAX_COMPARED = 100
_PLAIN = (str, int, float, bool, type(None))


def compile_template(source: str) -> Template:
    """The template of ``source``. Raises ``TemplateError`` when it is wrong or refused."""
    if len(source) > MAX_SOURCE:
        exceeded(f"has {len(source):,} characters")
    try:
        environment = _Environment()
        tokens = sum(kind != "whitespace" for _, kind, _ in islice(environment.lex(source), 2 * MAX_TOKENS + 2))
        if tokens > MAX_TOKENS:
            raise TemplateError(f"it has more than {MAX_TOKENS:,} tokens")
        return environment.from_string(source)
    except (RecursionError, MemoryError) as error:
        raise TemplateError("it is nested too deeply") from error
    except (SyntaxError, ValueError, OverflowError) as error:  # of the Python that Jinja makes of it
        raise TemplateError(str(error)) from error


def render(template: Template, variables: dict[str, Any]) -> str:
    """The text of ``template``, within the limits. Raises whatever the template makes Jinja or Python raise."""
    token = METER.set(Meter())
    try:
        return str(template.environment.concat(template.root_render_func(template.new_context(variables))))
    finally:
        METER.reset(token)


class _GenerationTag(Extension):
    """``{% generation %} … {% endgeneration %}`` marks what a model is trained on; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own signature)

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body)


class _Dict:
    """``dict`` for templates, as transformers has it: it can be called, and it has ``fromkeys``. What it hashes is metered."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return template_filters.mapping(METER.get(), *args, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return template_filters.mapping(METER.get(), ((key, value) for key in keys))


class _Namespace(Namespace):
    """Jinja's, but it does not print what is in it, which may be itself."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args  # so that `namespace(self=…)` works
        attributes = template_filters.mapping(METER.get(), *rest, **named)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], finalize=_printable
        )
        self.filters = {**template_filters.filters(), **_INTERNAL}
        self.tests = template_filters.tests()  # type: ignore[assignment]
        del self.globals["lipsum"]
        self.globals |= {"dict": _Dict(), "namespace": _Namespace, "raise_exception": _raise, "strftime_now": _strftime}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Metering().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree  # type: ignore[no-any-return]

    def concat(self, parts: Any) -> str:  # type: ignore[override]
        """What macros, blocks and the template as a whole put their output together with."""
        return template_filters.joined(METER.get(), parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter = METER.get()
        meter.spend()
        return _OPERATORS[operator](meter, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        kind = str if isinstance(obj, str) else type(obj)  # Jinja's Markup is a string
        if kind.__module__ == "builtins" and attr not in _ATTRIBUTES.get(kind, ()):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        if value.__name__ == "format_map":
            return lambda mapping: _Formatter(self).vformat(owner, (), mapping)
        return lambda *args, **kwargs: _Formatter(self).vformat(owner, args, kwargs)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as in Jinja)
        meter = METER.get()
        meter.spend(2 + len(args) + len(kwargs))
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = template_filters.check_method(meter, owner, __obj.__name__, args)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop
            args = (_steps(meter, args[0], 1), *args[1:])
        elif owner is not None:
            meter.use(*args)
        return meter.made(super().call(__context, __obj, *args, **kwargs))


class _Formatter(SandboxedFormatter):
    def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:
        template_filters.check_numbers(METER.get(), format_string)
        return str(METER.get().made(super().vformat(format_string, args, kwargs)))

    def format_field(self, value: Any, format_spec: str) -> Any:
        meter = METER.get()
        meter.use(value)
        template_filters.check_numbers(meter, format_spec)
        return meter.made(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        METER.get().use(value)
        return super().convert_field(value, conversion)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attributes such as {name!r}")


def _printable(value: Any) -> Any:
    """What ``{{ … }}`` prints, before it is turned into a string."""
    if type(value) is not str and (meter := METER.get(None)) is not None:
        meter.use(value)
    return value


def _steps(meter: Meter, items: Any, each: int) -> Iterator[Any]:
    for item in items:
        meter.spend(each)
        yield item


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime(form: str) -> str:
    if len(form) > 256:
        exceeded("has a format of a date of more than 256 characters")
    return datetime.now().strftime(form)


class _Metering(NodeTransformer):
    """Puts the operations that have no hook in Jinja behind filters, whose names no template can write."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        outputs = sum(1 for _ in node.find_all((nodes.Output, nodes.Assign, nodes.If)))
        self.generic_visit(node)
        node.iter = _behind(" loop", node.iter, nodes.Const(1 + outputs))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        if len(node.ops) > _MAX_COMPARED:  # Python takes seconds to compile 10,000
            raise TemplateError(f"{len(node.ops)} comparisons in a row in line {node.lineno}")
        operands: list[nodes.Expr] = [node.expr, *(operand.expr for operand in node.ops)]
        reads_all = any(operand.op in ("in", "notin") for operand in node.ops)
        cheap = _is_constant(operands[-1]) if reads_all else any(isinstance(o, nodes.Const) for o in operands)
        self.generic_visit(node)
        if not cheap or len(node.ops) > 1:
            node.expr = _behind(" read", node.expr)
            for operand in node.ops:
                operand.expr = _behind(" read", operand.expr)
        return node

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        if _is_constant(node):
            return node
        self.generic_visit(node)
        return _behind(" made", node) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_Dict = visit_List

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        is_slice, is_constant = isinstance(node.arg, nodes.Slice), isinstance(node.arg, nodes.Const)
        self.generic_visit(node)
        if is_slice:
            return _behind(" made", node)
        if not is_constant:
            node.arg = _behind(" read", node.arg)
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        parts: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):
            parts.append(left.right)
            left = left.left
        parts = [self.visit(part) for part in (left, *reversed(parts))]
        return _behind(" add", nodes.Tuple(parts, "load", lineno=node.lineno))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        parts = [self.visit(part) for part in node.nodes]
        return _behind(" concat", nodes.Tuple(parts, "load", lineno=node.lineno))

    def _refuse(self, node: nodes.Node) -> nodes.Node:
        raise TemplateError(f"{type(node).__name__} in line {node.lineno} is not for chat templates")

    visit_Extends = visit_Include = visit_Import = visit_FromImport = _refuse
    # `{% autoescape %}`: what is escaped grows where no meter sees it.
    visit_EvalContextModifier = visit_ScopedEvalContextModifier = _refuse


def _behind(name: str, node: nodes.Node, *args: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _is_constant(node: nodes.Node) -> bool:
    """Whether ``node`` is a constant, or a list or tuple of constants: as large as it is written."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


def _read(context: Any, value: Any) -> Any:
    if type(value) not in _PLAIN or (type(value) is str and len(value) > 1024):
        METER.get().use(value)
    return value


def _concat(context: Any, parts: tuple[Any, ...]) -> str:
    for part in parts:
        _printable(part)
    return template_filters.joined(METER.get(), map(str, parts))


_INTERNAL: dict[str, Callable[..., Any]] = {
    " loop": pass_context(lambda context, items, each: _steps(METER.get(), items, each)),
    " read": pass_context(_read),
    " made": pass_context(lambda context, value: METER.get().made(value)),
    " add": pass_context(lambda _, parts: template_filters.added(METER.get(), parts)),
    " concat": pass_context(_concat),
}
