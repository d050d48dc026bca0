"""What deciding gives: the server as it then is, the action it is owed, and what is said about it.

Owns the form of a decision only; it knows no rule.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from baremetal.lifecycle.actions import Action
from baremetal.lifecycle.model import Server


class Outcome(StrEnum):
    CHANGED = "changed"
    NOOP = "no-op"
    REFUSED = "refused"


class Reply(StrEnum):
    """What the machine is told: the boot app maps these to scripts and statuses."""

    OK = "ok"
    GO = "go"
    WAIT = "wait"
    REFUSED = "refused"
    GONE = "not found"
    SERVE = "serve"
    LOCAL = "local"


class Decision(Struct, frozen=True):
    """The server as it now is, the action it is owed, a sentence for the history, and the machine's reply."""

    server: Server
    action: Action | None
    note: str
    outcome: Outcome = Outcome.CHANGED
    reply: Reply = Reply.OK
