"""Lifecycle values to JSON and back.

Owns the stored form of `lifecycle.Server` and of events: objects by field name, enums as their strings, times in ISO
form, durations in seconds. Each dataclass is looked at once; encoding and decoding then run plain closures, because
the simulation lives on this path. Defaults are written out, so that a default changed by an upgrade does not change a
run under way. Deliberately forgiving in one direction: a field that is missing takes its default, one that is not known
is passed over. It knows no database.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

from baremetal.errors import Unavailable
from baremetal.lifecycle.amend import amend
from baremetal.lifecycle.events import Event
from baremetal.lifecycle.model import Server

Json = dict[str, Any]
_Turn = Callable[[Any], Any] | None  # how one value is turned; None: it is JSON already

EVENTS: Mapping[str, type] = {kind.__name__.lower(): kind for kind in get_args(Event)}
_NAMES = {kind: name for name, kind in EVENTS.items()}


def dump(value: object) -> str:
    """Write JSON the way all of the store's columns are written: compact, text kept as it is."""
    return _dump(value)


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_life(server: Server) -> str:
    """Return the stored form of a server's life."""
    return _dump(_shape(Server).encode(server))


def decode_life(text: str, generation: int, fence: int) -> Server:
    """Return the life that `text` holds, with the generation and fence of their own columns.

    Raises Unavailable where the text was written by a program that knows more states than this one.
    """
    server = _decoded(text)
    if server.fence != fence or server.generation != generation:
        return amend(server, generation=generation, fence=fence)
    return server


# Values are frozen all the way down, so one copy serves every reader of the same text.
@lru_cache(maxsize=2048)
def _decoded(text: str) -> Server:
    life: Server = _read(_shape(Server), json.loads(text))
    return life


def encode_event(event: Event) -> Json:
    """Return an event as a JSON object; its `type` names the class."""
    kind: type = type(event)
    return {"type": _NAMES[kind], **_shape(kind).encode(event)}


def decode_event(document: Mapping[str, Any]) -> Event:
    """Return the event that `encode_event` wrote."""
    kind = EVENTS.get(str(document.get("type")))
    if kind is None:
        raise Unavailable(
            f"the database holds an event of a kind that this version does not know: {document.get('type')}"
        )
    event: Event = _read(_shape(kind), document)
    return event


def _read(shape: _Shape, document: Mapping[str, Any]) -> Any:
    try:
        return shape.decode(document)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Unavailable(
            f"the database holds a {shape.kind.__name__} that this version cannot read",
            seen=str(error),
            fix="it was probably written by a newer version; run that one",
        ) from error


class _Shape:
    """How one dataclass is turned, worked out from its annotations. Most fields are JSON already."""

    __slots__ = ("_get", "_in", "_known", "_names", "_out", "kind")

    def __init__(self, kind: type) -> None:
        hints = get_type_hints(kind)
        self.kind = kind
        self._names = tuple(field.name for field in fields(kind))
        self._known = frozenset(self._names)
        # two names at least, or the getter would return a bare value
        self._get = attrgetter(*self._names) if len(self._names) > 1 else None
        self._out = [(name, turn) for name in self._names if (turn := _encoder(hints[name]))]
        self._in = [(name, turn) for name in self._names if (turn := _decoder(hints[name]))]

    def encode(self, value: Any) -> Json:
        if self._get is not None:
            document = dict(zip(self._names, self._get(value), strict=True))
        else:
            document = {name: getattr(value, name) for name in self._names}
        for name, turn in self._out:
            if (item := document[name]) is not None:
                document[name] = turn(item)
        return document

    def decode(self, document: Mapping[str, Any]) -> Any:
        values = {name: document[name] for name in document if name in self._known}
        for name, turn in self._in:
            if (item := values.get(name)) is not None:
                values[name] = turn(item)
        return self.kind(**values)


@cache
def _shape(kind: type) -> _Shape:
    return _Shape(kind)


def _plain(hint: Any) -> Any:
    """Return the type inside an Optional, or the type itself."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (arm for arm in get_args(hint) if arm is not type(None))
        return inner
    return hint


def _encoder(hint: Any) -> _Turn:
    hint = _plain(hint)
    origin = get_origin(hint)
    if origin is frozenset:
        return sorted
    if origin is tuple:
        inner = _encoder(get_args(hint)[0])
        return list if inner is None else lambda items: [inner(item) for item in items]
    if hint is datetime:
        return datetime.isoformat
    if hint is timedelta:
        return timedelta.total_seconds
    if is_dataclass(hint):
        return _shape(hint).encode  # type: ignore[arg-type]
    _assert_leaf(hint)
    return None


def _decoder(hint: Any) -> _Turn:
    hint = _plain(hint)
    origin = get_origin(hint)
    if origin in (frozenset, tuple):
        inner = _decoder(get_args(hint)[0])
        return origin if inner is None else lambda items: origin([inner(item) for item in items])
    if hint is datetime:
        return datetime.fromisoformat
    if hint is timedelta:
        return lambda seconds: timedelta(seconds=seconds)
    if is_dataclass(hint):
        return _shape(hint).decode  # type: ignore[arg-type]
    _assert_leaf(hint)
    if issubclass(hint, StrEnum):
        return {str(member): member for member in hint}.__getitem__
    return None


def _assert_leaf(hint: Any) -> None:
    if not (isinstance(hint, type) and issubclass(hint, str | int | float)):
        raise TypeError(f"no stored form for {hint}")
