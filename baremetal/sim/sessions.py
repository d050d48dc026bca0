"""The accounts and the session table of a BMC: slots, idle reaping, wrong passwords and lockout.

Owns who may log in and who holds a slot. Knows nothing of packets or keys: the RMCP+ handshake keeps those
beside the session it was given here. The clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from baremetal.sim.completion import LoginRefused, LoginStatus
from baremetal.sim.knobs import Knobs

HANDSHAKE_S = 10.0
"""How long a login that was begun may hold its slot before it is finished."""


class Privilege(IntEnum):
    """Privilege levels of IPMI 2.0 §6.8."""

    NONE = 0
    CALLBACK = 1
    USER = 2
    OPERATOR = 3
    ADMINISTRATOR = 4


@dataclass(frozen=True, slots=True)
class User:
    """An account of a BMC; the password is 20 bytes at most (§22.30)."""

    name: str
    password: str = field(repr=False)
    limit: Privilege = Privilege.ADMINISTRATOR


@dataclass(slots=True)
class Session:
    """A slot of the table. `user` is None until the login named one; `live` once the password was right."""

    number: int
    used_at: float
    user: User | None = None
    privilege: Privilege = Privilege.NONE
    limit: Privilege = Privilege.ADMINISTRATOR
    live: bool = False


class SessionTable:
    """The slots of one BMC and the state of its accounts."""

    def __init__(self, users: tuple[User, ...], fire: Callable[[str], None]) -> None:
        self._users = {user.name: user for user in users}
        self._fire = fire
        self._slots: dict[int, Session] = {}
        self._wrong: dict[str, int] = {}
        self._locked_until: dict[str, float] = {}
        self.wrong_passwords = 0
        self.closed: Callable[[int], None] = _ignore

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._slots.values())

    def get(self, number: int) -> Session | None:
        return self._slots.get(number)

    def set_password(self, name: str, password: str) -> None:
        """Give an account a password, making the account if need be; a lock on it is lifted."""
        self._users[name] = User(
            name, password, self._users[name].limit if name in self._users else Privilege(4)
        )
        self._wrong.pop(name, None)
        self._locked_until.pop(name, None)

    def reap(self, knobs: Knobs, now: float) -> None:
        """Free the slots of sessions that were silent too long and of logins that never ended."""
        for session in tuple(self._slots.values()):
            limit = knobs.idle_reap_s if session.live else min(HANDSHAKE_S, knobs.idle_reap_s)
            if now - session.used_at >= limit:
                self._fire("idle_reap")
                self.close(session.number)

    def open(self, number: int, knobs: Knobs, now: float) -> Session:
        """Take a slot for a login that begins. Raises LoginRefused (table full)."""
        self.reap(knobs, now)
        if len(self._slots) >= knobs.max_sessions:
            self._fire("max_sessions")
            raise LoginRefused(LoginStatus.TABLE_FULL)
        session = Session(number, used_at=now)
        self._slots[number] = session
        return session

    def identify(self, session: Session, name: str, wanted: Privilege, now: float) -> User:
        """Say who is logging in. Raises LoginRefused (unknown or locked account, privilege too high)."""
        user = self._users.get(name)
        if user is None or now < self._locked_until.get(name, now):
            if user is not None:
                self._fire("lockout_after")
            raise LoginRefused(LoginStatus.UNAUTHORISED_NAME)
        if wanted > user.limit:
            raise LoginRefused(LoginStatus.UNAUTHORISED_ROLE)
        session.user, session.limit = user, wanted or user.limit
        return user

    def accept(self, session: Session, now: float) -> None:
        """Make a session live: the password was right."""
        assert session.user is not None
        session.live, session.used_at, session.privilege = True, now, min(session.limit, Privilege.USER)
        self._wrong.pop(session.user.name, None)

    def reject(self, session: Session, knobs: Knobs, now: float) -> None:
        """Close a session whose password was wrong, and lock the account when that was once too often."""
        self.wrong_passwords += 1
        self.close(session.number)
        if session.user is None or not knobs.lockout_after:
            return
        name = session.user.name
        self._wrong[name] = self._wrong.get(name, 0) + 1
        if self._wrong[name] >= knobs.lockout_after:
            self._locked_until[name] = now + knobs.lockout_s
            self._wrong[name] = 0

    def close(self, number: int) -> bool:
        """Free a slot. Returns whether there was one."""
        found = self._slots.pop(number, None) is not None
        if found:
            self.closed(number)
        return found

    def clear(self) -> None:
        """Forget every session, as a restart of the BMC does."""
        for number in tuple(self._slots):
            self.close(number)


def _ignore(_: int) -> None:
    return None
