"""A small RMCP+ client for tests, that can do what real clients would not: repeat, forge and reorder packets."""

from __future__ import annotations

import os
import struct

from baremetal.sim.packets import Payload, checksum, parse, unwrap_sealed, wrap_sealed
from baremetal.sim.rmcp import BmcServer
from baremetal.sim.suites import SUITES, Keys

HOME = ("127.0.0.1", 40000)


def message(netfn: int, command: int, data: bytes = b"", number: int = 1) -> bytes:
    """Write an IPMI LAN request."""
    head = bytes((0x20, netfn << 2))
    body = bytes((0x81, number << 2, command)) + data
    return head + bytes((checksum(head),)) + body + bytes((checksum(body),))


def outside(payload_type: int, payload: bytes) -> bytes:
    """Wrap a payload that belongs to no session, in the 2.0 format."""
    return b"\x06\x00\xff\x07" + struct.pack("<BBIIH", 6, payload_type, 0, 0, len(payload)) + payload


class Client:
    """One client in front of a server, without a network in between."""

    def __init__(self, server: BmcServer, address: tuple[str, int] = HOME) -> None:
        self.server = server
        self.address = address
        self.console = int.from_bytes(os.urandom(4), "little")
        self.number = 0
        self.session = 0
        self.keys: Keys | None = None

    def ask(self, packet: bytes) -> bytes | None:
        return self.server.answer(packet, self.address)

    def exchange(self, payload_type: int, payload: bytes) -> bytes:
        """Send a message of the login and return the payload of its answer."""
        reply = self.ask(outside(payload_type, payload))
        assert reply is not None
        return parse(reply).payload

    def open_request(
        self, suite: int = 17, tag: int = 1, algorithms: tuple[int, int, int] | None = None
    ) -> bytes:
        known = SUITES[suite]
        wanted = algorithms or (known.authentication, known.integrity, known.confidentiality)
        payload = bytes((tag, 0, 0, 0)) + struct.pack("<I", self.console)
        for kind, algorithm in enumerate(wanted):
            payload += bytes((kind, 0, 0, 8, algorithm, 0, 0, 0))
        return payload

    def rakp1(self, user: str = "admin", role: int = 0x14, tag: int = 2) -> bytes:
        self.role, self.user, self.random = role, user.encode(), os.urandom(16)
        return (
            bytes((tag, 0, 0, 0))
            + struct.pack("<I", self.session)
            + self.random
            + bytes((role, 0, 0, len(self.user)))
            + self.user
        )

    def log_in(
        self, user: str = "admin", password: str = "password", suite: int = 17, role: int = 0x14
    ) -> int:
        """Log in; returns the first status that is not 0, or 0."""
        opened = self.exchange(Payload.OPEN_REQUEST, self.open_request(suite))
        if opened[1]:
            return opened[1]
        (self.session,) = struct.unpack_from("<I", opened, 8)
        second = self.exchange(Payload.RAKP1, self.rakp1(user, role))
        if second[1]:
            return second[1]
        identity = bytes((role, len(self.user))) + self.user
        key, chosen = password.encode(), SUITES[suite]
        bmc_random, guid = second[8:24], second[24:40]
        console, session = struct.pack("<I", self.console), struct.pack("<I", self.session)
        self.honest = second[40:] == chosen.prove(
            key, console + session + self.random + bmc_random + guid + identity
        )
        code = chosen.prove(key, bmc_random + console + identity)
        fourth = self.exchange(Payload.RAKP3, bytes((3, 0, 0, 0)) + session + code)
        if fourth[1]:
            return fourth[1]
        self.number = 0
        self.keys = chosen.derive(key, self.random + bmc_random + identity)
        assert fourth[8:] == chosen.prove_short(self.keys.sik, self.random + session + guid)
        return 0

    def packet(self, netfn: int, command: int, data: bytes = b"", number: int | None = None) -> bytes:
        """Seal a request under the next sequence number, or under `number`."""
        assert self.keys is not None
        if number is None:
            self.number += 1
            number = self.number
        return wrap_sealed(self.keys, self.session, number, message(netfn, command, data))

    def read(self, reply: bytes | None) -> tuple[int, bytes]:
        """Open a sealed reply: completion code and data."""
        assert reply is not None
        assert self.keys is not None
        packet = parse(reply)
        assert packet.session == self.console
        body = unwrap_sealed(self.keys, packet)
        assert checksum(body[:3]) == checksum(body[3:]) == 0
        return body[6], body[7:-1]

    def command(self, netfn: int, command: int, data: bytes = b"") -> tuple[int, bytes]:
        return self.read(self.ask(self.packet(netfn, command, data)))
