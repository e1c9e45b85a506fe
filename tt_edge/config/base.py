"""The base of all configurations: JSON round trip and checks. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tt_edge.compat import Self, StrEnum
from tt_edge.errors import InvalidInputError

_Enum = TypeVar("_Enum", bound=StrEnum)


class JsonConfig:
    """A frozen dataclass that is checked on creation and has a JSON round trip. Unknown keys are refused by name.

    Enumeration fields also accept a member's value, configuration fields their JSON form, and tuple fields a list.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            object.__setattr__(self, name, _typed(name, hint, getattr(self, name)))
        self.check()

    def check(self) -> None:
        """Raise ``InvalidInputError`` for invalid or contradictory values."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(data) - known):
            raise InvalidInputError(
                f"{cls.__name__} has no field {unknown[0]!r}; known fields: {', '.join(sorted(known))}"
            )
        return cls(**data)


@cache
def _hints(config: Any) -> dict[str, Any]:
    return get_type_hints(config)


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Convert ``value`` to the field type ``hint``. Raises ``InvalidInputError`` for an invalid member or flag."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in choices:
        return None
    kind = choices[0]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(kind, type):
        return value
    if issubclass(kind, StrEnum):
        return member(kind, name, value)
    if kind is bool:
        require(isinstance(value, bool), f"{name} is {value!r}; it must be true or false")
    elif hasattr(kind, "from_dict") and not isinstance(value, kind):
        require(isinstance(value, Mapping), f"{name} is {value!r}; it must be an object")
        return kind.from_dict(value)
    return value


def require(condition: bool, message: str) -> None:
    """Raise ``InvalidInputError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InvalidInputError(message)


def require_positive(name: str, value: object) -> None:
    """Raise ``InvalidInputError`` unless ``value`` is an integer of at least 1."""
    is_positive = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(is_positive, f"{name} is {value!r}; it must be an integer of at least 1")


def member(enum: type[_Enum], name: str, value: str) -> _Enum:
    """The member of ``enum`` with this value. Raises ``InvalidInputError`` that lists them for any other."""
    try:
        return enum(value)
    except ValueError:
        raise InvalidInputError(f"{name} {value!r} is unknown; choose one of {', '.join(enum)}") from None
