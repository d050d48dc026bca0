"""The RMCP+ login as a BMC plays it: Open Session and RAKP messages 1 to 4 (IPMI 2.0 §13.17 to §13.24).

Owns half-open logins and the keys that a finished one leaves behind. Slots, users and lockout are the session
table's. A message that is repeated because its answer was lost hears the same answer again and costs no
second slot.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, field
from typing import Any

from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.completion import LoginRefused, LoginStatus
from baremetal.sim.packets import Payload, Window
from baremetal.sim.sessions import Privilege, Session, User
from baremetal.sim.suites import SUITES, Keys, Malformed, Suite

_ANY = -1  # an algorithm left to us: its payload's length is 0


@dataclass(slots=True)
class Login:
    """One login, from Open Session until its session closes. `answers` remembers what each message heard."""

    session: Session
    address: Any
    console: int
    suite: Suite
    random_console: bytes = b""
    random_bmc: bytes = b""
    role: int = 0
    user: User | None = None
    keys: Keys | None = None
    window: Window = field(default_factory=Window)
    sent: int = 0
    answers: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    replies: dict[int, bytes] = field(default_factory=dict)

    def identity_text(self) -> bytes:
        """Role and name, as every code of the exchange covers them."""
        assert self.user is not None
        name = self.user.name.encode()
        return bytes((self.role, len(name))) + name


class Logins:
    """The logins of one BMC, by the number of its session."""

    def __init__(self, bmc: SimulatedBmc) -> None:
        self._bmc = bmc
        self._logins: dict[int, Login] = {}
        bmc.sessions.closed = self._forget

    def find(self, number: int) -> Login | None:
        """Return the login that made a live session."""
        login = self._logins.get(number)
        return login if login and login.session.live else None

    def answer(self, kind: int, message: bytes, address: Any) -> tuple[Payload, bytes] | None:
        """Answer a message of the login exchange; None for one that asks for nothing. Raises Malformed."""
        if kind == Payload.OPEN_REQUEST:
            self._bmc.requests["open-session"] += 1
            return Payload.OPEN_RESPONSE, self._open(message, address)
        if kind == Payload.RAKP1:
            self._bmc.requests["rakp1"] += 1
            return Payload.RAKP2, self._rakp1(message)
        if kind == Payload.RAKP3:
            self._bmc.requests["rakp3"] += 1
            found = self._rakp3(message)
            return (Payload.RAKP4, found) if found else None
        raise Malformed(f"payload type {kind:#x}")

    def _forget(self, number: int) -> None:
        self._logins.pop(number, None)

    def _open(self, message: bytes, address: Any) -> bytes:
        """Table 13-9 to 13-10."""
        if len(message) < 32:
            raise Malformed("open session request")
        tag, wanted = message[0], message[1] & 0x0F
        (console,) = struct.unpack_from("<I", message, 4)
        for login in self._logins.values():
            asked, reply = login.answers[Payload.OPEN_REQUEST]
            if login.address == address and asked == message and not login.random_console:
                return reply
        try:
            suite = self._choose(message)
            number = int.from_bytes(os.urandom(4), "little") or 1
            session = self._bmc.sessions.open(number, self._bmc.knobs, self._bmc.clock())
        except LoginRefused as refused:
            return bytes((tag, refused.status, 0, 0)) + message[4:8]
        limit = Privilege(wanted) if 1 <= wanted <= 4 else Privilege.ADMINISTRATOR
        algorithms = (suite.authentication, suite.integrity, suite.confidentiality)
        reply = bytes((tag, LoginStatus.OK, limit, 0)) + message[4:8] + struct.pack("<I", number)
        for kind, algorithm in enumerate(algorithms):
            reply += bytes((kind, 0, 0, 8, algorithm, 0, 0, 0))
        login = Login(session, address, console, suite)
        login.answers[Payload.OPEN_REQUEST] = (message, reply)
        self._logins[number] = login
        return reply

    def _choose(self, message: bytes) -> Suite:
        asked: list[int] = []
        for kind in range(3):
            part = message[8 + 8 * kind : 16 + 8 * kind]
            if part[0] != kind or part[3] not in (0, 8):
                raise LoginRefused(LoginStatus.INVALID_PAYLOAD)
            asked.append(part[4] & 0x3F if part[3] else _ANY)
        for number in sorted(self._bmc.knobs.suites, reverse=True):
            suite = SUITES[number]
            offered = (suite.authentication, suite.integrity, suite.confidentiality)
            if all(a in (_ANY, b) for a, b in zip(asked, offered, strict=True)):
                return suite
        self._bmc.fired["suites"] += 1
        raise LoginRefused(LoginStatus.NO_MATCHING_SUITE)

    def _rakp1(self, message: bytes) -> bytes:
        """Tables 13-11 and 13-12. A refusal frees the slot."""
        if len(message) < 28 or len(message) < 28 + message[27]:
            raise Malformed("RAKP message 1")
        tag = message[0]
        (number,) = struct.unpack_from("<I", message, 4)
        login = self._logins.get(number)
        if login is None or login.session.live:
            return bytes((tag, LoginStatus.INVALID_SESSION, 0, 0)) + bytes(4)
        console = struct.pack("<I", login.console)
        known = login.answers.get(Payload.RAKP1)
        if known:
            if known[0] == message:
                return known[1]
            return bytes((tag, LoginStatus.INVALID_SESSION, 0, 0)) + console
        length = message[27]
        name = message[28 : 28 + length]
        now = self._bmc.clock()
        role = message[24]
        try:
            if length > 16:
                raise LoginRefused(LoginStatus.INVALID_NAME_LENGTH)
            if role & 0x0F > Privilege.ADMINISTRATOR:
                raise LoginRefused(LoginStatus.INVALID_ROLE)
            login.user = self._bmc.sessions.identify(
                login.session, name.decode("utf-8", "replace"), Privilege(role & 0x0F), now
            )
        except LoginRefused as refused:
            self._bmc.sessions.close(number)
            return bytes((tag, refused.status, 0, 0)) + console
        login.role, login.random_console, login.random_bmc = role, message[8:24], os.urandom(16)
        login.session.used_at = now
        text = console + message[4:8] + login.random_console + login.random_bmc + self._bmc.identity.guid
        code = login.suite.prove(_key(login.user), text + login.identity_text())
        reply = (
            bytes((tag, LoginStatus.OK, 0, 0)) + console + login.random_bmc + self._bmc.identity.guid + code
        )
        login.answers[Payload.RAKP1] = (message, reply)
        return reply

    def _rakp3(self, message: bytes) -> bytes | None:
        """Tables 13-13 and 13-14. A client that found our code wrong says so here, and hears nothing."""
        if len(message) < 8:
            raise Malformed("RAKP message 3")
        tag, status = message[0], message[1]
        (number,) = struct.unpack_from("<I", message, 4)
        login = self._logins.get(number)
        if login is None or login.user is None:
            return bytes((tag, LoginStatus.INVALID_SESSION, 0, 0)) + bytes(4)
        known = login.answers.get(Payload.RAKP3)
        if known:
            return known[1] if known[0] == message else None
        now, console = self._bmc.clock(), struct.pack("<I", login.console)
        if status:
            self._bmc.sessions.reject(login.session, self._bmc.knobs, now)
            return None
        key = _key(login.user)
        expected = login.suite.prove(key, login.random_bmc + console + login.identity_text())
        if not hmac.compare_digest(expected, message[8:]):
            self._bmc.sessions.reject(login.session, self._bmc.knobs, now)
            return bytes((tag, LoginStatus.INVALID_INTEGRITY_VALUE, 0, 0)) + console
        login.keys = login.suite.derive(key, login.random_console + login.random_bmc + login.identity_text())
        self._bmc.sessions.accept(login.session, now)
        text = login.random_console + message[4:8] + self._bmc.identity.guid
        reply = bytes((tag, LoginStatus.OK, 0, 0)) + console + login.suite.prove_short(login.keys.sik, text)
        login.answers[Payload.RAKP3] = (message, reply)
        return reply


def _key(user: User) -> bytes:
    return user.password.encode()[:20]
