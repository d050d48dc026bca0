"""DHCP packets as values: what a client asks, and what a server answered (RFC 2131, options of RFC 2132 and RFC 4578).

Owns bytes to values and back, for the probe and for tests. Deliberately unknown: sockets, and what an answer should be.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from baremetal.errors import Invalid
from baremetal.netboot.dhcp.offer import Client

_COOKIE: Final = b"\x63\x82\x53\x63"
_HEAD: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_BROADCAST: Final = 0x8000
_SHORTEST: Final = 300  # what old relays and firmware expect (BOOTP)

ROUTER, DNS, REQUESTED, LEASE, OVERLOAD, KIND, SERVER, WANTED = 3, 6, 50, 51, 52, 53, 54, 55
VENDOR_DATA, VENDOR_CLASS, SERVER_NAME, FILE, USER_CLASS, ARCH, NIC, UUID, IPXE = (
    43,
    60,
    66,
    67,
    77,
    93,
    94,
    97,
    175,
)


class Kind(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class Packet:
    """One DHCP packet. Addresses are text, empty for 0.0.0.0; options are raw, by number, repeated ones joined."""

    kind: Kind | None
    xid: int
    mac: str
    is_reply: bool = False
    your: str = ""
    next_server: str = ""
    relay: str = ""
    client: str = ""
    name: str = ""
    boot_file: str = ""
    options: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The server's identifier, option 54."""
        raw = self.options.get(SERVER, b"")
        return socket.inet_ntoa(raw) if len(raw) == 4 else ""

    @property
    def file(self) -> str:
        """What is to be booted: option 67, which wins, or the packet's own field."""
        return _string(self.options.get(FILE, b"")) or self.boot_file

    @property
    def vendor_class(self) -> str:
        """Option 60."""
        return _string(self.options.get(VENDOR_CLASS, b""))

    def encode(self) -> bytes:
        """Return the packet as it goes over the wire."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        options = {KIND: bytes([self.kind])} if self.kind is not None else {}
        options |= {number: data for number, data in self.options.items() if number != KIND}
        body = b"".join(_option(number, data) for number, data in options.items())
        head = _HEAD.pack(
            2 if self.is_reply else 1, 1, 6, 0, self.xid, 0, 0 if self.client or self.relay else _BROADCAST,
            _packed(self.client), _packed(self.your), _packed(self.next_server), _packed(self.relay),
            mac, self.name.encode(), self.boot_file.encode(),
        )  # fmt: skip
        return (head + _COOKIE + body + b"\xff").ljust(_SHORTEST, b"\0")


def decode(data: bytes) -> Packet:
    """Read a packet. Raises Invalid for what is none."""
    if len(data) < _HEAD.size + len(_COOKIE) or data[_HEAD.size :][:4] != _COOKIE:
        raise Invalid("not a DHCP packet", seen=f"{len(data)} octets")
    op, _, length, _, xid, _, _, client, your, following, relay, mac, name, boot_file = _HEAD.unpack_from(
        data
    )
    options = _options(data[_HEAD.size + 4 :])
    overload = options.get(OVERLOAD, b"\0")[:1]
    if overload in (b"\1", b"\3"):  # the fields hold options instead (RFC 2131 §4.1)
        options, boot_file = {**_options(boot_file), **options}, b""
    if overload in (b"\2", b"\3"):
        options, name = {**_options(name), **options}, b""
    kind = options.get(KIND, b"")
    return Packet(
        kind=Kind(kind[0]) if len(kind) == 1 and kind[0] in set(Kind) else None,
        xid=xid,
        mac=mac[: min(length, 6)].hex(":"),
        is_reply=op == 2,
        your=_address(your),
        next_server=_address(following),
        relay=_address(relay),
        client=_address(client),
        name=_string(name),
        boot_file=_string(boot_file),
        options=options,
    )


def discover(client: Client, mac: str, xid: int, *, relay: str = "", uuid: bytes | None = None) -> Packet:
    """Return what such a client broadcasts to find servers, as its firmware words it."""
    return _ask(Kind.DISCOVER, client, mac, xid, {}, relay=relay, uuid=uuid)


def request(client: Client, offer: Packet, *, uuid: bytes | None = None) -> Packet:
    """Return the request for the address in an offer."""
    more = {REQUESTED: _packed(offer.your), SERVER: offer.options.get(SERVER, b"")}
    return _ask(Kind.REQUEST, client, offer.mac, offer.xid, more, relay=offer.relay, uuid=uuid)


def _ask(
    kind: Kind,
    client: Client,
    mac: str,
    xid: int,
    more: Mapping[int, bytes],
    *,
    relay: str,
    uuid: bytes | None,
) -> Packet:
    options: dict[int, bytes] = {
        57: struct.pack("!H", 1472),
        WANTED: bytes((1, 3, 6, 12, 15, 43, 60, 66, 67)),
        **more,
    }
    if client.installer:
        options[VENDOR_CLASS] = b"d-i"
    if client.arch is not None:
        who = "HTTPClient" if client.http else "PXEClient"
        options[VENDOR_CLASS] = f"{who}:Arch:{client.arch:05}:UNDI:003010".encode()
        options[ARCH] = struct.pack("!H", client.arch)
        options[NIC] = b"\x01\x03\x10"
        options[UUID] = b"\0" + (uuid or bytes.fromhex(mac.replace(":", "")).rjust(16, b"\0"))
    if client.ipxe:
        options[USER_CLASS] = b"iPXE"
        options[IPXE] = bytes((0x13, 1, 1, 0xEB, 3, 1, 0, 0))  # it speaks HTTP; version 1.0.0
    return Packet(kind, xid, mac, relay=relay, options=options)


def _option(number: int, data: bytes) -> bytes:
    parts = [data[at : at + 255] for at in range(0, len(data), 255)] or [b""]
    return b"".join(bytes((number, len(part))) + part for part in parts)


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            break  # cut off: what came before still counts
        found[data[at]] = found.get(data[at], b"") + data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def _address(raw: bytes) -> str:
    return socket.inet_ntoa(raw) if any(raw) else ""


def _packed(text: str) -> bytes:
    return socket.inet_aton(text) if text else bytes(4)


def _string(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
