"""A recorder that stands before TensorRT, or before a fake of it, and knows the real bindings of one release.

Every call, and every attribute that is read or set, must exist in the real module, and the arguments must fit the real
signature, types included: pybind11 writes signatures into docstrings, cuda.bindings' functions have them. So neither a
fake nor a library that is empty allows what the bindings would not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Call = tuple[str, tuple[Any, ...]]

#: Classes of the bindings whose constructors call into TensorRT's library. All others are plain data, and used as they are.
_LIBRARY = frozenset({"Builder", "Runtime", "Refitter", "OnnxParser"})

#: What the annotations of the bindings stand for. A class of the bindings stands for itself; any other name takes anything.
_TYPES: dict[str, Any] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "tuple": tuple,
    "list": list,
    "typing.SupportsInt": int,
    "typing.SupportsFloat": (int, float),
    "numpy.ndarray": np.ndarray,
}

#: Classes that the bindings convert into one that no constructor makes.
_CONVERTED = {"PluginFieldCollection_": "PluginFieldCollection"}

#: What a call returns that has no fake, by the annotation of its result.
_RESULTS: dict[str, Any] = {"bool": True, "int": 0, "float": 0.0, "str": "", "IHostMemory": b"engine"}


class MissingNameError(AttributeError, AssertionError):
    """A name that the release's bindings lack."""


class Recorder:
    """Stands before ``fake`` as if it were an object of the real class or module ``real``; adds to ``calls``.

    What there is no fake for, a whole network definition for instance, takes what the bindings take, remembers what
    is set, and returns recorders of the classes that the bindings say they return.
    """

    def __init__(self, fake: Any, real: Any, module: Any, calls: list[Call]) -> None:
        self.__dict__.update(_fake=fake, _real=real, _module=module, _calls=calls, _values={})

    def __repr__(self) -> str:
        return f"<{getattr(self._real, '__name__', self._real)}>"

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._real, name):
            raise MissingNameError(f"{self!r} has no {name}")
        real = getattr(self._real, name)
        if hasattr(real, "__members__"):
            return real
        if not hasattr(self._fake, name):
            return self._without_fake(name, real)
        value = getattr(self._fake, name)
        if not inspect.isroutine(value):
            is_enum = type(value).__name__ == "SimpleNamespace" and not isinstance(real, property)
            members = vars(value) if is_enum else ()
            assert all(hasattr(real, member) for member in members)
            return value
        return lambda *arguments: self._call(name, value, real, arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        real = getattr(self._real, name, None)
        if not isinstance(real, property):
            raise MissingNameError(f"{self!r} has no property {name}")
        assert real.fset, f"{name} is read-only"
        signatures = _parse(real.fset.__doc__ or "", self._module)
        assert not signatures or any(fits(s.parameters[1:], (value,), self._module) for s in signatures), (
            f"{value!r} does not fit {self!r}.{name}: {signatures}"
        )
        self._calls.append((f"{name} =", (value,)))
        self._values[name] = value
        if self._fake is not None:
            setattr(self._fake, name, value)

    def _without_fake(self, name: str, real: Any) -> Any:
        if isinstance(real, property):
            if name in self._values:
                return self._values[name]
            signatures = _parse(real.fget.__doc__ or "", self._module)
            if signatures and signatures[0].returns in _RESULTS:
                return _RESULTS[signatures[0].returns]
            raise RuntimeError(f"{self!r}.{name} is not set")
        if inspect.isclass(real):
            if real.__name__ not in _LIBRARY:
                return real
            return lambda *arguments: self._call(name, lambda *_: Recorder(None, real, self._module, self._calls), real,
                                                 arguments)  # fmt: skip
        if inspect.isroutine(real):
            return lambda *arguments: self._call(name, None, real, arguments)
        return real

    def _call(self, name: str, fake: Any, real: Any, arguments: tuple[Any, ...]) -> Any:
        returns = check_arguments(real.__init__ if inspect.isclass(real) else real, arguments, self._module)
        self._calls.append((name, arguments))
        if fake is None:
            return self._result(returns)
        result = fake(*(a._fake if isinstance(a, Recorder) and a._fake is not None else a for a in arguments))
        kind = getattr(result, "REAL", None)
        return Recorder(result, getattr(self._module, kind), self._module, self._calls) if kind else result

    def _result(self, returns: str) -> Any:
        if returns in _RESULTS:
            return _RESULTS[returns]
        kind = getattr(self._module, returns, None)
        return Recorder(None, kind, self._module, self._calls) if inspect.isclass(kind) else None


class Parameter(NamedTuple):
    """One parameter of a function of the bindings; ``kind`` is its annotation, without the module of a class."""

    name: str
    kind: str
    has_default: bool


class Signature(NamedTuple):
    """Parameters, ``self`` included, and the annotation of the result."""

    parameters: tuple[Parameter, ...]
    returns: str


def check_arguments(function: Any, arguments: tuple[Any, ...], module: Any = None) -> str:
    """Fail unless positional ``arguments`` fit the signature, or one of several; the annotation of its result."""
    signature = _python_signature(function)
    if signature is not None:
        signature.bind(*arguments)
        return ""
    signatures = _parse(function.__doc__ or "", module)
    assert signatures, f"{function} has no signature"
    for signature in signatures:
        own = [p for p in signature.parameters if p.name != "self"]
        if fits(own, arguments, module):
            return signature.returns
    raise AssertionError(f"{arguments} fit none of {signatures}")


def _python_signature(function: Any) -> inspect.Signature | None:
    """``None`` for pybind11's functions, which have none that Python can read."""
    if type(function).__name__ in ("builtin_function_or_method", "instancemethod") and not function.__text_signature__:
        return None  # so says inspect, too, after a while
    try:
        return inspect.signature(function)
    except ValueError:
        return None


@cache
def _parse(text: str, module: Any = None) -> tuple[Signature, ...]:
    """Signatures in a pybind11 docstring, of functions and of properties' accessors."""
    found = []
    for match in re.finditer(r"^ ?(?:\d+\. )?\w*\((.*)\) -> (.*)$", text, re.MULTILINE):
        parts = []
        for part in re.split(r", (?=\w+: )", match[1]):
            if part:
                name, _, rest = part.partition(": ")
                kind, _, default = rest.partition(" = ")
                parts.append(Parameter(name, _plain(kind), bool(default)))
        found.append(Signature(tuple(parts), _plain(match[2])))
    return tuple(found)


def _plain(annotation: str) -> str:
    """``tensorrt.tensorrt.ITensor`` to ``ITensor``, inside of brackets too; other modules' names stay as they are."""
    return re.sub(r"\btensorrt\w*\.(?:tensorrt\w*\.)*(\w+)", r"\1", annotation.strip())


def fits(parameters: Sequence[Parameter], arguments: tuple[Any, ...], module: Any = None) -> bool:
    """Whether the arguments are neither too few nor too many, and of the annotated types."""
    if not sum(not p.has_default for p in parameters) <= len(arguments) <= len(parameters):
        return False
    return all(_is_of(value, p.kind, module) for value, p in zip(arguments, parameters, strict=False))


def _is_of(value: Any, kind: str, module: Any) -> bool:
    if kind == "Dims":
        return isinstance(value, (tuple, list))
    if kind in _TYPES:
        return isinstance(value, _TYPES[kind])
    sequence = re.fullmatch(r"(?:List|collections\.abc\.Sequence)\[(\w+)\]", kind)
    if sequence:
        return isinstance(value, (tuple, list)) and all(_is_of(v, sequence[1], module) for v in value)
    real = getattr(module, _CONVERTED.get(kind, kind), None) if kind.isidentifier() else None
    if not inspect.isclass(real) or value is None or type(value).__name__ == "SimpleNamespace":
        return True  # no class of the bindings; the bindings take None for an object; a fake's enum or weights
    if isinstance(value, Recorder):
        return issubclass(value._real, real)
    return isinstance(value, (real, tuple)) if kind == "Weights" else isinstance(value, real)
