"""The commands of the LAN channel, before a login and about one's own session (IPMI 2.0 §22).

Owns their bytes only. The handshake itself is not made of commands and lives in `rakp.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from baremetal.sim.completion import Code, CompletionError
from baremetal.sim.knobs import Knobs
from baremetal.sim.sessions import Privilege, Session, SessionTable
from baremetal.sim.suites import SUITES

APP = 0x06
LAN_CHANNEL = 1
THIS_CHANNEL = 0x0E


class Speaker(Protocol):
    """What these commands need of a BMC."""

    sessions: SessionTable
    knobs: Knobs


Who = TypeVar("Who", contravariant=True)


@dataclass(frozen=True, slots=True)
class Command(Generic[Who]):
    """A row of a command table, shared by all BMCs. `needs` is the least privilege; `least` the fewest data bytes."""

    name: str
    needs: Privilege
    run: Callable[[Who, bytes, Session | None], bytes]
    without_session: bool = False
    least: int = 0


def _auth_capabilities(bmc: Speaker, data: bytes, _: Session | None) -> bytes:
    """§22.13: IPMI 2.0 only, named users, no BMC key."""
    _check_channel(data[0])
    if not 1 <= data[1] & 0x0F <= 5:
        raise CompletionError(Code.INVALID_FIELD)
    if not data[0] & 0x80:
        return bytes((LAN_CHANNEL, 0x00, 0x04, 0, 0, 0, 0, 0))
    return bytes((LAN_CHANNEL, 0x80, 0x04, 0x02, 0, 0, 0, 0))


def _cipher_suites(bmc: Speaker, data: bytes, _: Session | None) -> bytes:
    """§22.15: 16 bytes of the list of records at a time."""
    _check_channel(data[0])
    records = b"".join(SUITES[number].record() for number in sorted(bmc.knobs.suites))
    start = (data[2] & 0x3F) * 16
    return bytes((LAN_CHANNEL,)) + records[start : start + 16]


def _set_privilege(bmc: Speaker, data: bytes, session: Session | None) -> bytes:
    """§22.18: a session begins as USER and is raised here, up to what its login asked for."""
    assert session is not None
    wanted = data[0] & 0x0F
    if wanted:
        if wanted == Privilege.CALLBACK or wanted > Privilege.ADMINISTRATOR:
            raise CompletionError(Code.PRIVILEGE_NOT_AVAILABLE)
        if wanted > session.limit:
            raise CompletionError(Code.PRIVILEGE_EXCEEDS_LIMIT)
        session.privilege = Privilege(wanted)
    return bytes((session.privilege,))


def _close(bmc: Speaker, data: bytes, session: Session | None) -> bytes:
    """§22.19: one's own session, or another's for an administrator."""
    assert session is not None
    number = int.from_bytes(data[:4], "little")
    if number != session.number and session.privilege < Privilege.ADMINISTRATOR:
        raise CompletionError(Code.INSUFFICIENT_PRIVILEGE)
    if not bmc.sessions.close(number):
        raise CompletionError(Code.NO_SUCH_SESSION)
    return b""


def _info(bmc: Speaker, data: bytes, session: Session | None) -> bytes:
    """§22.20, for the session that asks; others show as not active."""
    assert session is not None
    head = bytes((bmc.knobs.max_sessions & 0x3F, len(bmc.sessions) & 0x3F))
    if data[0] != 0:
        return b"\x00" + head
    return b"\x01" + head + bytes((0x02, session.privilege, 0x10 | LAN_CHANNEL)) + bytes(12)


def _access(bmc: Speaker, data: bytes, _: Session | None) -> bytes:
    """§22.23: always available, all authentication on."""
    _check_channel(data[0])
    return bytes((0x02, Privilege.ADMINISTRATOR))


def _channel_info(bmc: Speaker, data: bytes, _: Session | None) -> bytes:
    """§22.24: an 802.3 LAN channel, many sessions."""
    _check_channel(data[0])
    return bytes((LAN_CHANNEL, 0x04, 0x01, 0x80 | len(bmc.sessions) & 0x3F, 0xF2, 0x1B, 0x00, 0, 0))


def _check_channel(number: int) -> None:
    if number & 0x0F not in (LAN_CHANNEL, THIS_CHANNEL):
        raise CompletionError(Code.INVALID_FIELD)


# The rows of the command table that concern channel and session, by network function and command.
COMMANDS: Final[Mapping[tuple[int, int], Command[Speaker]]] = {
    (APP, 0x38): Command("get-channel-auth-capabilities", Privilege.NONE, _auth_capabilities, True, 2),
    (APP, 0x3B): Command("set-session-privilege", Privilege.NONE, _set_privilege, least=1),
    (APP, 0x3C): Command("close-session", Privilege.NONE, _close, least=4),
    (APP, 0x3D): Command("get-session-info", Privilege.CALLBACK, _info, least=1),
    (APP, 0x41): Command("get-channel-access", Privilege.USER, _access, least=2),
    (APP, 0x42): Command("get-channel-info", Privilege.USER, _channel_info, least=1),
    (APP, 0x54): Command("get-channel-cipher-suites", Privilege.NONE, _cipher_suites, True, 3),
}
