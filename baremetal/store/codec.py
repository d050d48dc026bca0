"""Lifecycle values to JSON and back.

Owns the stored form of `lifecycle.Server` and of events: objects by field name, enums as their strings, times and
durations in ISO form. Defaults are written out, so that a default changed by an upgrade does not change a run under
way. Deliberately forgiving in one direction: a field that is missing takes its default, one that is not known is passed
over. It knows no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from baremetal.errors import Unavailable
from baremetal.lifecycle.events import Event
from baremetal.lifecycle.model import MAIN, BootTarget, Server

Json = dict[str, Any]

EVENTS: Mapping[str, type] = {kind.__name__.lower(): kind for kind in get_args(Event)}
_NAMES = {kind: name for name, kind in EVENTS.items()}

# Sets in a fixed order: a replay writes the same bytes.
_ENCODER = msgspec.json.Encoder(order="deterministic")
_SYSTEMS = '"systems":'
_LIVES = msgspec.json.Decoder(Server)


def dump(value: object) -> str:
    """Write JSON the way all of the store's columns are written: compact, text kept as it is."""
    return _ENCODER.encode(value).decode()


def load(text: str) -> Any:
    """Read what `dump` wrote."""
    return msgspec.json.decode(text)


def encode_life(server: Server) -> str:
    """Return the stored form of a server's life."""
    return dump(server)


def decode_life(text: str, generation: int, fence: int) -> Server:
    """Return the life that `text` holds, with the generation and fence of their own columns.

    Raises Unavailable where the text was written by a program that knows more states than this one.
    """
    server = _decoded(text)
    if server.fence != fence or server.generation != generation:
        return replace(server, generation=generation, fence=fence)
    return server


# Values are frozen all the way down, so one copy serves every reader of the same text.
@lru_cache(maxsize=2048)
def _decoded(text: str) -> Server:
    try:
        life = _LIVES.decode(text)
    except msgspec.MsgspecError as error:
        raise _newer("life", error) from error
    if _SYSTEMS not in text and life.target is BootTarget.ISCSI and life.deployed:
        # written when a server had one system, which had no name
        return replace(life, systems=((MAIN, life.deployed),))
    return life


def encode_event(event: Event) -> Json:
    """Return an event as a JSON object; its `type` names the class."""
    return {"type": _NAMES[type(event)], **msgspec.to_builtins(event, order="deterministic")}


def decode_event(document: Mapping[str, Any]) -> Event:
    """Return the event that `encode_event` wrote."""
    kind = EVENTS.get(str(document.get("type")))
    if kind is None:
        raise Unavailable(
            f"the database holds an event of a kind that this version does not know: {document.get('type')}"
        )
    try:
        event: Event = msgspec.convert(document, kind)
    except msgspec.MsgspecError as error:
        raise _newer("event", error) from error
    return event


def _newer(what: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the database holds a {what} that this version cannot read",
        seen=str(error),
        fix="it was probably written by a newer version; run that one",
    )
