"""Who may use the control API: bearer tokens, their roles, and the one made at first start.

Owns the roles, the form of a control token and its hash (only hashes are stored), and the file that the CLI picks up.
Deliberately unknown here: HTTP, and the tokens of runs, which are derived and never stored (`netboot/tokens.py`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path

from baremetal.errors import Conflict, Invalid, Unavailable, Unknown
from baremetal.store.secrets import read_or_make
from baremetal.store.store import Store

_PREFIX = "bml_"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?\Z")
FIRST = "first-start"


class Role(IntEnum):
    """What a token may do; each role may do what the ones before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @classmethod
    def named(cls, name: str) -> Role:
        """Read a role's name. Raises Invalid."""
        try:
            return cls[name.upper()]
        except KeyError:
            known = ", ".join(role.word for role in cls)
            raise Invalid(f"no role {name!r}", variable="role", fix=f"use one of {known}") from None

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: the token's name stands in the history beside what was asked."""

    name: str
    role: Role


class Tokens:
    """The control tokens of this installation."""

    def __init__(self, store: Store, file: Path, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._file = file
        self._clock = clock

    def first(self) -> Path:
        """Make sure that the token file exists and opens the API; returns its path. Idempotent."""
        token = read_or_make(self._file, lambda: f"{_make()}\n".encode()).decode().strip()
        if not token.startswith(_PREFIX):
            raise Unavailable(
                f"{self._file} holds no control token", fix="remove it: the next start makes another"
            )
        known = self._store.token_by_hash(_hash(token))
        if known is None:
            if any(entry.name == FIRST for entry in self._store.tokens()):
                self._store.revoke(FIRST)
            self._store.add_token(FIRST, Role.ADMIN.word, _hash(token), self._clock())
        return self._file

    def identify(self, token: str) -> Identity | None:
        """Say whose token this is; None for anything unknown or revoked."""
        if not token.startswith(_PREFIX) or len(token) > 128:
            return None
        entry = self._store.token_by_hash(_hash(token))
        return Identity(entry.name, Role.named(entry.role)) if entry is not None else None

    def create(self, name: str, role: str) -> str:
        """Make a token and return it, this one time."""
        wanted = Role.named(role)
        if not _NAME.match(name):
            raise Invalid(
                f"{name!r} is no name for a token",
                variable="name",
                fix="use lower-case letters, digits, '.', '_' and '-', at most 48",
            )
        if any(entry.name == name for entry in self._store.tokens()):
            raise Conflict(f"there is a token {name!r} already", fix="revoke it first, or take another name")
        token = _make()
        self._store.add_token(name, wanted.word, _hash(token), self._clock())
        return token

    def entries(self) -> list[dict[str, object]]:
        return [
            {"name": entry.name, "role": entry.role, "created_at": entry.created_at}
            for entry in self._store.tokens()
        ]

    def revoke(self, name: str) -> None:
        """Make a token worthless at once. Raises Unknown."""
        if not any(entry.name == name for entry in self._store.tokens()):
            raise Unknown(f"no token {name!r}")
        self._store.revoke(name)
        if name == FIRST:
            # Or the next start would take the file's word for it, and the token would be good again.
            self._file.unlink(missing_ok=True)


def _make() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def _hash(token: str) -> str:
    # 256 random bits need no salt and no slow hash: there is nothing to guess.
    return hashlib.sha256(token.encode()).hexdigest()
