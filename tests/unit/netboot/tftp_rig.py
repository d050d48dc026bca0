"""A TFTP server on the loopback in a thread of its own, and a client that loses, repeats and disorders by seed."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import uvloop

from baremetal.netboot.tftp import Limits, Patience, Resolve, Seen, TftpServer

CALM = Patience(first_wait_s=3.0, least_wait_s=3.0)
"""Nothing is sent again because this machine is busy: for tests that count packets."""
HASTY = Patience(first_wait_s=0.15, least_wait_s=0.03, most_wait_s=0.4, tries=7, silence_s=8.0)


class Rig:
    """`with Rig(resolve) as rig`: a server in a loop and thread of its own. `seen` is what it reported."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        host: str = "127.0.0.1",
        limits: Limits | None = None,
        sock: socket.socket | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
        record: Callable[[Seen], None] | None = None,
    ) -> None:
        self.seen: list[Seen] = []
        self.executor = ThreadPoolExecutor(8)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.server = TftpServer(
            host,
            0,
            resolve,
            executor=self.executor,
            seen=record or self.seen.append,
            limits=limits or Limits(patience=HASTY),
            sock=sock,
        )
        self.address: tuple[str, int] = (host, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result(5)
        host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(self.server.host, self.server.host)
        self.address = (host, port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self.executor.shutdown()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(5)

    def wait(self, is_so: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until something is so. Raises TimeoutError."""
        end = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError(f"not so within {within_s} s; seen {self.seen[-3:]}")
            time.sleep(0.005)

    def reports(self, count: int = 1) -> list[Seen]:
        """Wait until so many requests have ended."""
        self.wait(lambda: len(self.seen) >= count)
        return self.seen


@dataclass
class Wire:
    """What the network does to packets, in each direction by itself; 0 nothing, 1 everything."""

    seed: int = 0
    loss: float = 0.0
    repeat: float = 0.0
    swap: float = 0.0
    _held: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def pass_on(self, packet: bytes) -> list[bytes]:
        """Return what arrives, now that this was sent."""
        out: list[bytes] = []
        if self._chance.random() >= self.loss:
            out = [packet] * (2 if self._chance.random() < self.repeat else 1)
        if out and not self._held and self._chance.random() < self.swap:
            self._held = out
            return []
        held, self._held = self._held, []
        return out + held


@dataclass
class Got:
    """What a client ended up with."""

    data: bytes = b""
    options: dict[str, str] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    blocks: int = 0
    """Data packets that came in, repeated ones too."""


class Client:
    """A TFTP client of the older kind: it acknowledges whatever comes, also twice (what RFC 1123 warns of)."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        source: str | None = None,
        wire: Wire | None = None,
        outward: Wire | None = None,
        wait_s: float = 0.25,
        tries: int = 25,
    ) -> None:
        self._server = address
        self._inward = wire or Wire()
        self._outward = outward or Wire(
            self._inward.seed + 1, self._inward.loss, self._inward.repeat, self._inward.swap
        )
        self._wait_s = wait_s
        self._tries = tries
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind((source or ("::1" if family == socket.AF_INET6 else "127.0.0.1"), 0))
        self._inbox: list[bytes] = []
        self.peer: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def ask(
        self, name: bytes | str, options: Mapping[str, int | str] | None = None, mode: str = "octet"
    ) -> None:
        """Send a read request."""
        self.send(request(name, options, mode))

    def send(self, packet: bytes) -> None:
        for each in self._outward.pass_on(packet):
            self.sock.sendto(each, self.peer or self._server)

    def acknowledge(self, number: int) -> None:
        self.send(struct.pack("!HH", 4, number & 0xFFFF))

    def receive(self, wait_s: float | None = None) -> bytes | None:
        """Return the next packet, or None after the wait. The first one settles the server's port (its TID)."""
        end = time.monotonic() + (wait_s or self._wait_s)
        while not self._inbox:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                packet, peer = self.sock.recvfrom(70000)
            except TimeoutError:
                return None
            if self.peer is None:
                self.peer = peer
            if peer == self.peer:
                self._inbox = self._inward.pass_on(packet)
        return self._inbox.pop(0)

    def get(
        self, name: bytes | str, options: Mapping[str, int | str] | None = None, mode: str = "octet"
    ) -> Got:
        """Fetch a whole file. Raises TimeoutError when the server falls silent."""
        got = Got()
        parts: list[bytes] = []
        block, window, expected, unacknowledged, silent, gap = 512, 1, 1, 0, 0, False
        self.ask(name, options, mode)
        while True:
            packet = self.receive()
            if packet is None:
                silent += 1
                if silent > self._tries:
                    raise TimeoutError(f"{name!r}: silence before block {expected}")
                if expected == 1 and not got.options:
                    self.ask(name, options, mode)
                else:
                    self.acknowledge(expected - 1)
                unacknowledged, gap = 0, False
                continue
            silent = 0
            opcode, number = struct.unpack_from("!HH", packet)
            if opcode == 5:
                got.error = (number, packet[4:].rstrip(b"\0").decode())
                got.data = b"".join(parts)
                return got
            if opcode == 6:
                words = packet[2:].split(b"\0")[:-1]
                got.options = {k.decode(): v.decode() for k, v in zip(words[::2], words[1::2], strict=True)}
                block = int(got.options.get("blksize", 512))
                window = int(got.options.get("windowsize", 1))
                if expected == 1:
                    self.acknowledge(0)
                continue
            assert opcode == 3, packet[:20]
            got.blocks += 1
            if number != expected & 0xFFFF:
                if window == 1:
                    self.acknowledge(number)  # every packet is answered: the apprentice's broom
                elif not gap:
                    self.acknowledge(expected - 1)
                    unacknowledged, gap = 0, True
                continue
            gap = False
            expected += 1
            unacknowledged += 1
            parts.append(packet[4:])
            last = len(packet) - 4 < block
            if last or unacknowledged >= window:
                self.acknowledge(expected - 1)
                unacknowledged = 0
            if last:
                self._linger(expected - 1)
                got.data = b"".join(parts)
                return got

    def _linger(self, number: int) -> None:
        """Answer repetitions of the last block for a while, where packets get lost."""
        if not self._inward.loss:
            return
        while self.receive(self._wait_s * 2) is not None:
            self.acknowledge(number)


def request(
    name: bytes | str, options: Mapping[str, int | str] | None = None, mode: str = "octet", opcode: int = 1
) -> bytes:
    """Write a request."""
    words = [name if isinstance(name, bytes) else name.encode(), mode.encode()]
    for key, value in (options or {}).items():
        words += [key.encode(), str(value).encode()]
    return struct.pack("!H", opcode) + b"".join(word + b"\0" for word in words)
