"""A read-only TFTP server that maps names to bytes: for loaders that know nothing else (design §5).

Owns the listening socket, what a request is checked for, the limits per client, and the report of each request. What a
name stands for is the resolver's to say; no path of a request ever reaches the file system. How blocks travel is
transfer.py, their form packets.py. Writing is refused. The mode *netascii* is served as it stands, as *octet*: loaders
do not ask for it, and the line ends of what we serve are already the machine's own.

Everything runs in the event loop that called `start`, without waiting; the resolver and cold files run in the caller's
executor.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from baremetal import telemetry
from baremetal.netboot.tftp.clients import Clients, Limits
from baremetal.netboot.tftp.content import Content, Source, open_content
from baremetal.netboot.tftp.names import BadName, is_harmless, plain_name
from baremetal.netboot.tftp.packets import (
    Fault,
    Malformed,
    Opcode,
    Wish,
    agree,
    error,
    is_request,
    read_request,
)
from baremetal.netboot.tftp.sockets import (
    Address,
    answering_socket,
    bind,
    destination,
    plain_address,
    prepare,
)
from baremetal.netboot.tftp.transfer import Outcome, Transfer

log = telemetry.logger(__name__)

_AT_ONCE = 32  # datagrams taken from the listening socket before the rest of the loop gets a turn
_LONGEST = 1024  # bytes of a request; RFC 2347 allows 512


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. `name` is plain: relative, forward slashes, nothing that leads upwards; `raw` as it came.

    `local` is the address of ours that was asked, if the system tells.
    """

    name: str
    raw: bytes
    client: str
    local: str | None
    options: Mapping[str, str]


Resolve = Callable[[Request], Content | None]
"""Say what a name stands for; None: there is nothing of that name. May block; runs in the caller's executor."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, told when it has ended. `bytes` is what the client acknowledged, `seconds` from request to end."""

    at: datetime
    client: str
    name: str
    outcome: Outcome
    reason: str = ""
    bytes: int = 0
    seconds: float = 0.0
    block_size: int = 0
    window: int = 0
    retransmits: int = 0

    @property
    def is_harmless(self) -> bool:
        """Whether a loader asked in passing for something that need not be there."""
        return self.outcome is Outcome.NOT_FOUND and is_harmless(self.name)


@dataclass(slots=True, eq=False)
class _Job:
    """A request that was let in: first without, then with a transfer."""

    client: str
    peer: Address
    name: str
    at: datetime
    began: float
    transfer: Transfer | None = None
    resolving: asyncio.Task[None] | None = None


class TftpServer:
    """`await start()`, `await stop()`, both in one event loop. `seen` is called in it and must return soon.

    `sock` is an already bound datagram socket (systemd's, say): host and port are then only words. The server closes
    it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        resolve: Resolve,
        *,
        executor: Executor,
        seen: Callable[[Seen], None] | None = None,
        limits: Limits | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.dropped: Counter[str] = Counter()
        """Requests that got no answer, by reason."""
        self._resolve = resolve
        self._executor = executor
        self._seen = seen
        self._sock = sock
        self._jobs: dict[tuple[str, int], _Job] = {}
        self._clients = Clients(self.limits)
        self._running = False

    async def start(self) -> int:
        """Listen, and return the port; 0 takes a free one. Raises Unavailable (BM303)."""
        if self._sock is None:
            self._sock = bind(self.host, self.port)
        self._sock.setblocking(False)
        prepare(self._sock)
        self.port = int(self._sock.getsockname()[1])
        asyncio.get_running_loop().add_reader(self._sock, self._readable)
        self._running = True
        log.info("tftp server started", host=self.host, port=self.port)
        return self.port

    async def stop(self) -> None:
        """Close the port and end what is under way; the clients are told. Idempotent."""
        if not self._running or self._sock is None:
            return
        self._running = False
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._sock = None
        resolving = [job.resolving for job in self._jobs.values() if job.resolving is not None]
        for task in resolving:
            task.cancel()
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                job.transfer.stop("the server stops")
        await asyncio.gather(*resolving, return_exceptions=True)
        for job in list(self._jobs.values()):  # those that had not even begun
            self._ended(job, Outcome.FAILED, "the server stops")
        log.info("tftp server stopped")

    @property
    def transfers(self) -> int:
        """How many requests are being served."""
        return len(self._jobs)

    # -- requests --

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if self._sock is None:
                return
            try:
                data, notes, _, peer = self._sock.recvmsg(_LONGEST + 1, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error about somebody who left
            try:
                self._asked(data, peer, notes)
            except Exception:
                # one request must not end the server
                log.exception("tftp request failed", client=str(peer[0]))

    def _asked(self, data: bytes, peer: Address, notes: list[tuple[int, int, bytes]]) -> None:
        if not is_request(data):
            self.dropped["no request"] += 1
            return
        local, was_broadcast = destination(notes)
        client = plain_address(peer[0])
        if was_broadcast:
            self.dropped["broadcast"] += 1  # RFC 1123 §4.2.3.4
        elif not self._clients.may_ask(client):
            self._drop("too many requests", client)
        elif len(data) > _LONGEST:
            self._drop("too long", client)
        else:
            self._admit(data, peer, client, local)

    def _admit(self, data: bytes, peer: Address, client: str, local: str | None) -> None:
        at, began = datetime.now(UTC), time.monotonic()
        raw, name = data[2:].partition(b"\0")[0], ""
        try:
            wish = read_request(data)
            raw, name = wish.name, plain_name(wish.name)
        except (Malformed, BadName) as trouble:
            shown = name or ascii(raw.decode("latin-1"))[1:-1][:255]
            code = Fault.ILLEGAL if isinstance(trouble, Malformed) else Fault.ACCESS
            self._refuse(Seen(at, client, shown, Outcome.REFUSED, str(trouble)), peer, local, code)
            return
        if wish.opcode is Opcode.WRQ:
            seen = Seen(at, client, name, Outcome.REFUSED, "writing is not allowed")
            self._refuse(seen, peer, local, Fault.ACCESS)
            return
        key = (peer[0], peer[1])
        if not self._is_new(key, name):
            self.dropped["repeated"] += 1
            return
        if not self._clients.begin(client):
            self._drop("too many transfers", client)
            return
        job = _Job(client, peer, name, at, began)
        self._jobs[key] = job
        request = Request(name, raw, client, local, wish.options)
        job.resolving = asyncio.get_running_loop().create_task(self._serve(job, request, wish))

    def _is_new(self, key: tuple[str, int], name: str) -> bool:
        """Tell a new request from one that is being served. A client that starts over ends what it asked for before."""
        job = self._jobs.get(key)
        if job is None:
            return True
        wait_s = self.limits.patience.first_wait_s
        if job.transfer is None or (job.name == name and job.transfer.quiet_s < wait_s):
            return False
        job.transfer.stop("the client has asked again", tell=False)
        return True

    async def _serve(self, job: _Job, request: Request, wish: Wish) -> None:
        try:
            async with asyncio.timeout(self.limits.resolve_s):
                source = await self._find(request)
            if source is None:
                self._not_served(job, request, Outcome.NOT_FOUND, "")
            else:
                self._send(job, request, wish, source)
        except (FileNotFoundError, NotADirectoryError) as trouble:
            self._not_served(job, request, Outcome.NOT_FOUND, f"the file is missing: {trouble.filename}")
        except TimeoutError:
            self._not_served(job, request, Outcome.FAILED, f"no content within {self.limits.resolve_s:g} s")
        except asyncio.CancelledError:
            self._not_served(job, request, Outcome.FAILED, "the server stops")
            raise
        except Exception as trouble:
            self._not_served(job, request, Outcome.FAILED, f"{type(trouble).__name__}: {trouble}")
            log.exception("tftp resolver failed", client=request.client, name=request.name)
        finally:
            job.resolving = None

    async def _find(self, request: Request) -> Source | None:
        def find() -> Source | None:
            content = self._resolve(request)
            return None if content is None else open_content(content)

        found = asyncio.get_running_loop().run_in_executor(self._executor, find)
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            found.add_done_callback(_close_late)  # nobody waits for it any more
            raise

    def _send(self, job: _Job, request: Request, wish: Wish, source: Source) -> None:
        limits = self.limits
        most = limits.max_block - (20 if ":" in request.client else 0)
        terms = agree(wish.options, size=source.size, max_block=most, max_window=limits.max_window)
        try:
            sock = answering_socket(job.peer, request.local)
        except OSError as trouble:
            source.close()
            self._ended(job, Outcome.FAILED, f"no socket: {trouble.strerror}")
            return
        job.transfer = Transfer(
            sock,
            source,
            terms,
            patience=limits.patience,
            executor=self._executor,
            ended=lambda _, outcome, reason: self._ended(job, outcome, reason),
        )
        job.transfer.start()

    # -- ends --

    def _not_served(self, job: _Job, request: Request, outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.NOT_FOUND:
            _say(job.peer, request.local, error(Fault.NOT_FOUND, "file not found"))
        else:
            _say(job.peer, request.local, error(Fault.UNDEFINED, "the server cannot answer just now"))
        self._ended(job, outcome, reason)

    def _ended(self, job: _Job, outcome: Outcome, reason: str) -> None:
        key = (job.peer[0], job.peer[1])
        if self._jobs.get(key) is not job:
            return
        del self._jobs[key]
        self._clients.end(job.client)
        seconds = time.monotonic() - job.began
        transfer = job.transfer
        if transfer is None:
            self._report(Seen(job.at, job.client, job.name, outcome, reason, seconds=seconds))
            return
        self._report(
            Seen(
                job.at,
                job.client,
                job.name,
                outcome,
                reason,
                transfer.bytes_acked,
                seconds,
                transfer.terms.block_size,
                transfer.terms.window,
                transfer.retransmits,
            )
        )

    def _refuse(self, seen: Seen, peer: Address, local: str | None, code: Fault) -> None:
        _say(peer, local, error(code, seen.reason))
        self._report(seen)

    def _report(self, seen: Seen) -> None:
        telemetry.TFTP_REQUESTS.labels(seen.outcome).inc()
        telemetry.TFTP_BYTES.inc(seen.bytes)
        telemetry.TFTP_RETRANSMITS.inc(seen.retransmits)
        if self._seen is None:
            return
        try:
            self._seen(seen)
        except Exception:
            log.exception("tftp request could not be recorded", client=seen.client, name=seen.name)

    def _drop(self, reason: str, client: str) -> None:
        telemetry.TFTP_REQUESTS.labels("dropped").inc()
        self.dropped[reason] += 1
        # the first, second, fourth, eighth…: a flood must not fill the log
        if self.dropped[reason].bit_count() == 1:
            log.warning("tftp request dropped", reason=reason, client=client, so_far=self.dropped[reason])


def _say(peer: Address, local: str | None, packet: bytes) -> None:
    """Send one packet from a port of its own; if that fails, the client asks again."""
    try:
        with answering_socket(peer, local) as sock:
            sock.send(packet)
    except OSError as trouble:
        log.debug("tftp answer not sent", client=str(peer[0]), reason=str(trouble))


def _close_late(found: asyncio.Future[Source | None]) -> None:
    if not found.cancelled() and found.exception() is None and (source := found.result()) is not None:
        source.close()
