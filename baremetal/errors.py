"""The errors of the whole program, one small tree.

Owns the classes, the stable `BM…` codes (listed for people in `docs/errors.md`) and the shape of a message: what
happened, to which server, what we saw, what to do next. Knows nothing of HTTP statuses or exit codes: `web` and `cli`
map classes to those. Errors of libraries are translated into these at the edge, with `raise … from error`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any


class BaremetalError(Exception):
    """Anything this program says no with. `code` is stable; the rest is prose for people, free of secrets."""

    code = "BM000"

    def __init__(
        self,
        what: str,
        *,
        code: str | None = None,
        server: str | None = None,
        seen: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.server = server
        self.seen = seen
        self.fix = fix
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        """Finish the sentence: what happened, to which server, what was seen, what to do next."""
        where = f"{self.server}: " if self.server and not self.what.startswith(self.server) else ""
        text = f"{where}{self.what}"
        if self.seen:
            text += f" (seen: {self.seen})"
        if self.fix:
            text += f". {self.fix[0].upper()}{self.fix[1:]}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """The one error shape of the API."""
        return {
            "code": self.code,
            "error": type(self).__name__,
            "message": str(self),
            "what": self.what,
            "server": self.server,
            "seen": self.seen,
            "fix": self.fix,
        }


class Refused(BaremetalError):
    """We say no, and say what is allowed instead."""

    code = "BM502"

    def __init__(self, what: str, *, allowed: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(what, **more)
        self.allowed = allowed

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"allowed": list(self.allowed)}


class Conflict(Refused):
    """Something that must be unique is already there: a MAC, a BMC, a name."""

    code = "BM501"


class Superseded(BaremetalError):
    """A newer decision (abort, maintenance, another worker) has taken this effect's permission away."""

    code = "BM503"


class Unknown(BaremetalError):
    """No such server, profile, run or token; `nearest` is the did-you-mean."""

    code = "BM504"

    def __init__(self, what: str, *, nearest: str | None = None, **more: Any) -> None:
        super().__init__(what, **more)
        self.nearest = nearest

    def __str__(self) -> str:
        return super().__str__() + (f". Did you mean {self.nearest!r}?" if self.nearest else "")

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"nearest": self.nearest}


class Invalid(BaremetalError):
    """Input that cannot be right; names the file, line and variable where it came from one."""

    code = "BM505"

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        line: int | None = None,
        variable: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(what, **more)
        self.file = file
        self.line = line
        self.variable = variable

    def __str__(self) -> str:
        place = (
            f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        )
        return place + self.about + super().__str__()

    @property
    def about(self) -> str:
        """`VARIABLE: ` where it is known and neither the place nor the sentence names it, else ""."""
        name = self.variable
        if not name or (self.file or "").endswith(name):
            return ""
        named = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", self.what, re.IGNORECASE)
        return "" if named else f"{name}: "

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"file": self.file, "line": self.line, "variable": self.variable}


class MediaMissing(BaremetalError):
    """A kernel, initrd or installer tree that a profile names is not there."""

    code = "BM202"


class NotAuthorised(BaremetalError):
    """No token, a wrong one, or a role that may not do this."""

    code = "BM602"


class Unavailable(BaremetalError):
    """Our own side cannot answer just now (database, service down); trying again may help."""

    code = "BM601"


class TimedOut(BaremetalError):
    """A wait of ours ran out before the thing happened."""

    code = "BM401"


class LabError(BaremetalError):
    """The lab's own machinery failed: QEMU missing, a port taken; or a small system was not built."""

    code = "BM701"


class LoginError(BaremetalError):
    """SSH could not prove what runs: unreachable, wrong host key, or an answer that is not this run's.

    `silent`: nothing answered at all.
    """

    code = "BM403"

    def __init__(self, what: str, *, transient: bool, silent: bool = False, **more: Any) -> None:
        super().__init__(what, **more)
        self.transient = transient
        self.silent = silent


class BmcErrorKind(StrEnum):
    """A driver's only judgement: the class of the error (promises, BMC conversation rules)."""

    AUTH = "auth"  # never retried; freezes every caller of that BMC until the credentials change
    FROZEN = "frozen"  # refused by us: a wrong password was seen before and the credentials are the same
    SESSION_FULL = "session full"
    BUSY = "busy"  # completion codes 0xC0 0xC3 0xC4 0xD2
    CONFLICT = "conflict"  # 0xD5: not in this state; read again
    UNSUPPORTED = "unsupported"
    CIPHER = "cipher"  # no common cipher suite
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    PROTOCOL = "protocol"
    NO_EFFECT = "no effect"  # said yes, did nothing
    BREAKER = "breaker open"  # refused by us: too many failures in a row, waiting for the probe


_BMC_CODES = {
    BmcErrorKind.AUTH: "BM102",
    BmcErrorKind.FROZEN: "BM102",
    BmcErrorKind.SESSION_FULL: "BM103",
    BmcErrorKind.BUSY: "BM103",
    BmcErrorKind.CIPHER: "BM104",
    BmcErrorKind.NO_EFFECT: "BM105",
    BmcErrorKind.UNSUPPORTED: "BM106",
    BmcErrorKind.CONFLICT: "BM107",
    BmcErrorKind.PROTOCOL: "BM108",
    BmcErrorKind.UNREACHABLE: "BM101",
    BmcErrorKind.DEADLINE: "BM101",
    BmcErrorKind.BREAKER: "BM101",
}

_FINAL = {BmcErrorKind.AUTH, BmcErrorKind.FROZEN, BmcErrorKind.UNSUPPORTED, BmcErrorKind.CIPHER}


class BmcError(BaremetalError):
    """The machine's side failed. `retry_after_s` is the least useful wait, where the cause implies one."""

    def __init__(
        self, what: str, kind: BmcErrorKind, *, retry_after_s: float | None = None, **more: Any
    ) -> None:
        more.setdefault("code", _BMC_CODES[kind])
        super().__init__(what, **more)
        self.kind = kind
        self.retry_after_s = retry_after_s

    @property
    def transient(self) -> bool:
        """Whether asking again later, with the same credentials, can help."""
        return self.kind not in _FINAL

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"kind": str(self.kind)}


class StorageErrorKind(StrEnum):
    """What a storage host's trouble is: whether asking again can help depends on it."""

    UNREACHABLE = "unreachable"  # no connection, a connection that was cut, a command that hung
    HOST_KEY = "host key"  # another host key than the pinned one
    FULL = "full"
    MISSING = "missing"  # the volume group, the folder or the program is not there
    CLASH = "clash"  # the name is taken by something that is not ours
    SETTINGS = "settings"  # a target of this name stands there with settings that are not ours
    IN_USE = "in use"
    BUSY = "busy"  # somebody else's change takes long
    FAILED = "failed"  # a command failed in a way that we do not know


_STORAGE_CODES = {
    StorageErrorKind.UNREACHABLE: "BM801",
    StorageErrorKind.HOST_KEY: "BM802",
    StorageErrorKind.FULL: "BM803",
    StorageErrorKind.MISSING: "BM804",
    StorageErrorKind.CLASH: "BM805",
    StorageErrorKind.SETTINGS: "BM806",
    StorageErrorKind.IN_USE: "BM807",
    StorageErrorKind.BUSY: "BM811",
    StorageErrorKind.FAILED: "BM808",
}


class StorageError(BaremetalError):
    """A storage host could not do what was asked."""

    def __init__(self, what: str, kind: StorageErrorKind, **more: Any) -> None:
        more.setdefault("code", _STORAGE_CODES[kind])
        super().__init__(what, **more)
        self.kind = kind

    @property
    def transient(self) -> bool:
        """Whether asking again later can help without an operator."""
        return self.kind in (StorageErrorKind.UNREACHABLE, StorageErrorKind.FAILED, StorageErrorKind.BUSY)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"kind": str(self.kind)}
