"""A copy of a frozen value with some of its fields changed: `dataclasses.replace`, many times as fast.

Every decision makes several such copies of a server and its run, which has some thirty fields, and the simulation
decides a hundred times a life. Knows no particular class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")
_copiers: dict[type, Callable[[Any], Any]] = {}


def amend(value: T, **changes: Any) -> T:
    """Return a copy of a slotted dataclass value with these fields changed. Raises TypeError for an unknown field."""
    kind = type(value)
    made = (_copiers.get(kind) or _make(kind))(value)
    try:
        for name, item in changes.items():
            setattr(made, name, item)
    except AttributeError:
        raise TypeError(f"{kind.__name__} has no field {name!r}") from None
    made.__class__ = kind
    frozen: T = made
    return frozen


def _make(kind: type) -> Callable[[Any], Any]:
    """Write the function that copies a value of this class into a twin of it, a bare class of the same slots.

    The twin is not frozen, and an object may change its class for one of the same slots. Plain assignments are what
    the interpreter is quickest at; getting past a frozen class's own `__setattr__` costs several times as much, for
    each of the fields.
    """
    if hasattr(kind, "__post_init__"):
        raise TypeError(f"{kind.__name__} checks itself when it is made; use dataclasses.replace")
    twin = type(f"{kind.__name__}Twin", (), {"__slots__": kind.__dict__["__slots__"]})
    lines = [f"    made.{field.name} = value.{field.name}" for field in fields(kind)]
    text = "\n".join(["def copy(value):", "    made = new(twin)", *lines, "    return made"])
    scope: dict[str, Any] = {"new": object.__new__, "twin": twin}
    exec(text, scope)
    copier: Callable[[Any], Any] = scope["copy"]
    _copiers[kind] = copier
    return copier
