"""The packets of IPMI over LAN: RMCP, ASF presence, the 1.5 and 2.0 session wrappers, the message inside.

Owns bytes to values and back, sequence numbers included (IPMI 2.0 §13.1 to §13.8, §6.12.13). Knows nothing of
commands, users or sockets. Anything that does not parse raises `Malformed`, which callers answer with
silence.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from baremetal.sim.suites import Keys, Malformed

RMCP_IPMI = b"\x06\x00\xff\x07"
RMCP_ASF = b"\x06\x00\xff\x06"
_PRESENCE_PING = b"\x00\x00\x11\xbe\x80"
_FORMAT_15, _FORMAT_20 = 0x00, 0x06
_SEALED, _ENCRYPTED = 0x40, 0x80
_BEHIND, _AHEAD = 16, 15


class Payload(IntEnum):
    """Payload types of table 13-16."""

    IPMI = 0x00
    SOL = 0x01
    OPEN_REQUEST = 0x10
    OPEN_RESPONSE = 0x11
    RAKP1 = 0x12
    RAKP2 = 0x13
    RAKP3 = 0x14
    RAKP4 = 0x15


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet out of its RMCP header. `raw` is everything from the authentication type on, for its seal."""

    format: int
    payload_type: int
    flags: int
    session: int
    sequence: int
    payload: bytes
    raw: bytes

    @property
    def is_sealed(self) -> bool:
        return bool(self.flags & _SEALED)

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & _ENCRYPTED)


def pong(packet: bytes) -> bytes | None:
    """Answer an ASF presence ping (§13.2.3, §13.2.4); None when the packet is not one."""
    if len(packet) < 12 or packet[:4] != RMCP_ASF or packet[4:9] != _PRESENCE_PING:
        return None
    head = RMCP_ASF + b"\x00\x00\x11\xbe\x40" + packet[9:10] + b"\x00\x10"
    return head + b"\x00\x00\x11\xbe" + bytes(4) + b"\x81" + bytes(7)  # IPMI supported, ASF 1.0


def parse(packet: bytes) -> Packet:
    """Take the RMCP and session headers off. Raises Malformed."""
    if len(packet) < 14 or packet[0] != 0x06 or packet[3] != 0x07:
        raise Malformed("not RMCP of class IPMI")
    raw = packet[4:]
    if raw[0] == _FORMAT_15:
        _, sequence, session, length = struct.unpack_from("<BIIB", raw)
        return Packet(_FORMAT_15, Payload.IPMI, 0, session, sequence, _exactly(raw, 10, length), raw)
    if raw[0] != _FORMAT_20 or len(raw) < 12:
        raise Malformed(f"authentication type {raw[0]:#x}")
    _, kind, session, sequence, length = struct.unpack_from("<BBIIH", raw)
    return Packet(_FORMAT_20, kind & 0x3F, kind & 0xC0, session, sequence, _exactly(raw, 12, length), raw)


def wrap(like: Packet, payload_type: int, payload: bytes) -> bytes:
    """Wrap a payload outside of any session, in the format of the packet that it answers."""
    if like.format == _FORMAT_15:
        return RMCP_IPMI + struct.pack("<BIIB", _FORMAT_15, 0, 0, len(payload)) + payload
    return RMCP_IPMI + struct.pack("<BBIIH", _FORMAT_20, payload_type, 0, 0, len(payload)) + payload


def wrap_sealed(keys: Keys, session: int, sequence: int, payload: bytes) -> bytes:
    """Wrap an IPMI message inside a session: encrypted and sealed as its suite says (table 13-8)."""
    flags = _ENCRYPTED * keys.encrypts | _SEALED * keys.seals
    body = keys.encrypt(payload) if keys.encrypts else payload
    text = struct.pack("<BBIIH", _FORMAT_20, flags | Payload.IPMI, session, sequence, len(body)) + body
    if keys.seals:
        padding = -(len(text) + 2) % 4
        text += b"\xff" * padding + bytes((padding, 0x07))
        text += keys.seal(text)
    return RMCP_IPMI + text


def unwrap_sealed(keys: Keys, packet: Packet) -> bytes:
    """Check the seal of a session's packet and return its message. Raises Malformed."""
    if packet.is_sealed != keys.seals or packet.is_encrypted != keys.encrypts:
        raise Malformed("sealed or encrypted otherwise than agreed")
    if keys.seals:
        length = keys.seal_length
        text, seal = packet.raw[:-length], packet.raw[-length:]
        if len(text) < 12 + len(packet.payload) + 2 or not hmac.compare_digest(keys.seal(text), seal):
            raise Malformed("seal")
    return keys.decrypt(packet.payload) if keys.encrypts else packet.payload


class Window:
    """The sequence numbers already seen in one direction of a session: each is accepted once (§6.12.13)."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit n: the number n behind the highest has been seen

    def accept(self, number: int) -> bool:
        """Note a number; say whether it is new and near enough: up to 15 ahead, up to 16 behind."""
        ahead = number - self._highest
        if number == 0 or (ahead > _AHEAD and self._seen) or ahead < -_BEHIND:
            return False
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & (1 << _BEHIND + 1) - 1
            self._highest = number
            return True
        if self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


@dataclass(frozen=True, slots=True)
class Request:
    """An IPMI LAN message that asks (§13.8)."""

    netfn: int
    command: int
    data: bytes
    responder: int
    responder_lun: int
    requester: int
    requester_lun: int
    sequence: int

    @classmethod
    def parse(cls, message: bytes) -> Request:
        """Check both checksums and take a message apart. Raises Malformed; responses are malformed here."""
        if len(message) < 7 or checksum(message[:3]) or checksum(message[3:]):
            raise Malformed("checksum of the message")
        if message[1] >> 2 & 1:
            raise Malformed("a response")
        return cls(
            netfn=message[1] >> 2,
            command=message[5],
            data=message[6:-1],
            responder=message[0],
            responder_lun=message[1] & 3,
            requester=message[3],
            requester_lun=message[4] & 3,
            sequence=message[4] >> 2,
        )

    def answer(self, code: int, data: bytes) -> bytes:
        """Write the response message."""
        head = bytes((self.requester, (self.netfn | 1) << 2 | self.requester_lun))
        body = bytes((self.responder, self.sequence << 2 | self.responder_lun, self.command, code)) + data
        return head + bytes((checksum(head),)) + body + bytes((checksum(body),))


def checksum(data: bytes) -> int:
    """Compute the 2's complement checksum of §13.8; zero over data that ends in its own."""
    return -sum(data) & 0xFF


def _exactly(raw: bytes, start: int, length: int) -> bytes:
    payload = raw[start : start + length]
    if len(payload) != length:
        raise Malformed(f"{len(payload)} bytes where {length} were announced")
    return payload
