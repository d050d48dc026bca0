"""An IPMI 2.0 server on UDP in front of simulated BMCs: what ipmitool, freeipmi and pyghmi talk to.

Owns sockets, the event loop and the order of things for one packet: network faults, session, command, reply.
What a command means is `bmc.py`'s, the login `rakp.py`'s, the bytes `packets.py`'s. One process serves many
BMCs, a port each.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.completion import Silence
from baremetal.sim.packets import (
    Packet,
    Payload,
    Request,
    parse,
    pong,
    unwrap_sealed,
    wrap,
    wrap_sealed,
)
from baremetal.sim.rakp import Login, Logins
from baremetal.sim.suites import Malformed
from baremetal.sim.wire import Wire

_log = logging.getLogger(__name__)
_REMEMBERED = 8  # replies kept per session for requests that are repeated under the same sequence number
T = TypeVar("T")


class BmcServer(asyncio.DatagramProtocol):
    """One BMC on one UDP port. `dropped` counts packets that deserved no answer, by reason.

    Chassis methods run inside the event loop: they must return soon.
    """

    def __init__(self, bmc: SimulatedBmc) -> None:
        self.bmc = bmc
        self.dropped: Counter[str] = Counter()
        self.port = 0
        self._logins = Logins(bmc)
        self._transport: asyncio.DatagramTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._inward = Wire(bmc, self._receive, self._later)
        self._outward = Wire(bmc, self._transmit, self._later)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Bind and serve until `stop`, and return the port; 0 takes a free one. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self.port = int(self._transport.get_extra_info("sockname")[1])
        return self.port

    async def stop(self) -> None:
        """Close the socket; idempotent. Sessions stay in the BMC until they are reaped."""
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.close()
            self._transport = None
            await asyncio.sleep(0)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._inward.send(data, addr)

    def error_received(self, exc: Exception) -> None:
        # a client that went away: ICMP port unreachable says nothing about the next one
        self.dropped[type(exc).__name__] += 1

    def _later(self, delay_s: float, run: Callable[[], None]) -> object:
        assert self._loop is not None
        return self._loop.call_later(delay_s, run)

    def _transmit(self, packet: bytes, address: Any) -> None:
        if self._transport:
            self._transport.sendto(packet, address)

    def _receive(self, data: bytes, address: Any) -> None:
        try:
            reply = self.answer(data, address)
        except (Malformed, Silence) as error:
            self.dropped[type(error).__name__] += 1
            return
        except Exception:
            # one packet or one chassis must not end the other conversations
            self.dropped["error"] += 1
            _log.exception("packet of %d bytes", len(data))
            return
        finally:
            self._wake_for_due()
        if reply is None:
            return
        if self.bmc.chance("malformed"):
            reply = self.bmc.rng.randbytes(4)
        self._outward.send(reply, address, self.bmc.knobs.reply_delay_s)

    def answer(self, data: bytes, address: Any) -> bytes | None:
        """Answer one packet, without any network; None for one that asks for nothing. Raises Malformed, Silence."""
        self.bmc.advance()
        if self.bmc.is_silent():
            raise Silence
        if data[3:4] == b"\x06":
            return pong(data)
        packet = parse(data)
        if packet.session:
            return self._in_session(packet)
        if packet.payload_type != Payload.IPMI:
            found = self._logins.answer(packet.payload_type, packet.payload, address)
            return wrap(packet, *found) if found else None
        request = Request.parse(packet.payload)
        code, reply = self.bmc.handle(request.netfn, request.command, request.data)
        return wrap(packet, Payload.IPMI, request.answer(code, reply))

    def _in_session(self, packet: Packet) -> bytes | None:
        login = self._logins.find(packet.session)
        if login is None or login.keys is None or packet.payload_type != Payload.IPMI:
            raise Malformed("no such session")
        message = unwrap_sealed(login.keys, packet)
        if not login.window.accept(packet.sequence):
            # the same packet again: our reply was lost, or the network doubled it; nothing runs twice
            known = login.replies.get(packet.sequence)
            return self._seal(login, known) if known else None
        request = Request.parse(message)
        code, reply = self.bmc.handle(request.netfn, request.command, request.data, login.session)
        answer = request.answer(code, reply)
        login.replies[packet.sequence] = answer
        if len(login.replies) > _REMEMBERED:
            del login.replies[next(iter(login.replies))]
        return self._seal(login, answer)

    def _seal(self, login: Login, answer: bytes) -> bytes:
        assert login.keys is not None
        login.sent += 1
        return wrap_sealed(login.keys, login.console, login.sent, answer)

    def _wake_for_due(self) -> None:
        due = self.bmc.next_due()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, due - self.bmc.clock()), self._advance)

    def _advance(self) -> None:
        try:
            self.bmc.advance()
        except Exception:
            self.dropped["error"] += 1
            _log.exception("a power command that was due")
        self._wake_for_due()


class BmcFarm:
    """BMC servers in a background thread, for synchronous code: `with BmcFarm() as farm: farm.add(bmc)`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bmc-farm", daemon=True)
        self.servers: dict[int, BmcServer] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for port in tuple(self.servers):
            self.remove(port)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def add(self, bmc: SimulatedBmc, port: int = 0) -> int:
        """Serve a BMC and return its port."""
        server = BmcServer(bmc)
        bound = asyncio.run_coroutine_threadsafe(server.start(self._host, port), self._loop).result(5)
        self.servers[bound] = server
        return bound

    def remove(self, port: int) -> None:
        """Stop serving a port: what was a BMC is now unreachable."""
        asyncio.run_coroutine_threadsafe(self.servers.pop(port).stop(), self._loop).result(5)

    def call(self, run: Callable[[], T]) -> T:
        """Run something in the thread that owns the BMCs, and return what it returns or raise what it raises."""
        if threading.current_thread() is self._thread:
            return run()

        async def inside() -> T:
            return run()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(10)
