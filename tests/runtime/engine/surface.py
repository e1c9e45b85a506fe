"""A recorder between the session and its fakes that knows the real bindings.

Every call, and every attribute that is read or set, must exist in the real module, and its arguments must fit the real
signature: pybind11 writes signatures into docstrings, cuda.bindings' functions have them. So a fake cannot allow what
the bindings would not.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

Call = tuple[str, tuple[Any, ...]]

# What the annotations of the bindings stand for; a type that is not here takes anything.
_TYPES: dict[str, Any] = {
    "str": str,
    "bool": bool,
    "int": int,
    "tuple": tuple,
    "list": list,
    "typing.SupportsInt": int,
}


class Recorder:
    """Stands before ``fake`` as if it were an object of the real class or module ``real``; adds to ``calls``."""

    def __init__(self, fake: Any, real: Any, module: Any, calls: list[Call]) -> None:
        self.__dict__.update(_fake=fake, _real=real, _module=module, _calls=calls)

    def __getattr__(self, name: str) -> Any:
        assert hasattr(self._real, name), f"{self._real} has no {name}"
        value = getattr(self._fake, name)
        if not inspect.isroutine(value):
            members = vars(value) if type(value).__name__ == "SimpleNamespace" else ()
            assert all(hasattr(getattr(self._real, name), member) for member in members)
            return value
        real = getattr(self._real, name)
        return lambda *arguments: self._call(name, value, real, arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        real = getattr(self._real, name, None)
        assert isinstance(real, property), f"{self._real} has no property {name}"
        assert real.fset, f"{name} is read-only"
        self._calls.append((f"{name} =", (value,)))
        setattr(self._fake, name, value)

    def _call(self, name: str, fake: Any, real: Any, arguments: tuple[Any, ...]) -> Any:
        check_arguments(real.__init__ if inspect.isclass(real) else real, arguments)
        self._calls.append((name, arguments))
        result = fake(*(a._fake if isinstance(a, Recorder) else a for a in arguments))
        kind = getattr(result, "REAL", None)
        return Recorder(result, getattr(self._module, kind), self._module, self._calls) if kind else result


def check_arguments(function: Any, arguments: tuple[Any, ...]) -> None:
    """Fail unless positional ``arguments`` fit the signature, or one of several, of a function of the bindings."""
    try:
        inspect.signature(function).bind(*arguments)
        return
    except ValueError:  # pybind11's functions have none that Python can read
        pass
    signatures = parse(function.__doc__ or "")
    assert signatures, f"{function} has no signature"
    assert any(fits(signature, arguments) for signature in signatures), f"{arguments} fit none of {signatures}"


def parse(text: str) -> list[list[tuple[str, str, bool]]]:
    """Signatures in a pybind11 docstring; each a list of (name, type, whether there is a default), without ``self``."""
    found = []
    for match in re.finditer(r"^(?:\d+\. )?\w+\((.*)\)(?: -> .*)?$", text, re.MULTILINE):
        if match[1] == "*args, **kwargs":
            continue
        parameters = []
        for part in re.split(r", (?=\w+: )", match[1]):
            if part:
                name, _, rest = part.partition(": ")
                kind, _, default = rest.partition(" = ")
                parameters.append((name, kind, bool(default)))
        found.append([p for p in parameters if p[0] != "self"])
    return found


def fits(signature: list[tuple[str, str, bool]], arguments: tuple[Any, ...]) -> bool:
    """Whether the arguments are neither too few nor too many, and of the annotated types where those are plain."""
    if not sum(not default for _, _, default in signature) <= len(arguments) <= len(signature):
        return False
    return all(
        isinstance(value, (tuple, list) if kind.endswith(".Dims") else _TYPES.get(kind, object))
        for value, (_, kind, _) in zip(arguments, signature, strict=False)
        if not isinstance(value, Recorder)
    )
