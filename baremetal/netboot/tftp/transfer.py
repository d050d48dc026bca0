"""One TFTP transfer: blocks out, acknowledgements in, until the client has everything or nobody answers any more.

Owns the socket of the transfer (its port is our TID, RFC 1350 §4), the window, and when something is sent again.
Deliberately unknown: names, limits on clients, who is told how it ended.

An acknowledgement is acted upon at most once, and only a fresh one brings new blocks. With a window of one, a
repeated acknowledgement brings nothing at all, so that duplicates die out (the Sorcerer's Apprentice, RFC 1123
§4.2.3.1). With a larger window one below its end says that the rest was lost (RFC 7440 §4): the rest is sent again, but
once per flight, because clients that acknowledge every block, and networks that duplicate, say the same.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum

from baremetal.netboot.tftp.content import Source
from baremetal.netboot.tftp.packets import ACK, DATA, ERROR, HEADER, Fault, Terms, error, option_ack

_UNHEARD_TRIES = 4
"""A first packet may go to somebody whose address was forged: such a one is not sent much."""
_PASSING = (errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
"""The network has no room or no way just now: the same as a lost packet."""

_CLOSED = (0, "closed")
"""What GRUB says when it closes a file that it has not read to its end."""


class Outcome(StrEnum):
    """How a request ended."""

    SERVED = "served"
    PROBED = (
        "probed"  # asked for the size, was told, and declined: firmwares do so before they ask in earnest
    )
    LOOKED = "looked"  # opened, and closed at its beginning: GRUB looks so whether a file is there
    NOT_FOUND = "not found"
    REFUSED = "refused"
    FAILED = "failed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a silent client is waited for.

    The wait for an answer begins at `first_wait_s`, follows the round trips measured (RFC 6298) and doubles while
    nothing comes. A client that asks for a time-out (RFC 2349) gets that one to begin with. `tries` counts packets
    sent again in a row, `silence_s` is without any progress, `longest_s` all of a transfer.
    """

    first_wait_s: float = 1.0
    least_wait_s: float = 0.2
    most_wait_s: float = 8.0
    tries: int = 7
    silence_s: float = 120.0
    longest_s: float = 2 * 3600.0


def _shown(text: bytes) -> str:
    """Write a client's own words so that they can go on a screen."""
    return (
        text.split(b"\0")[0][:100]
        .decode("ascii", "replace")
        .translate({**dict.fromkeys(range(32)), 127: None})
    )


class Transfer:
    """Sends `source` over `sock`, which is connected to the client, and calls `ended` once. Takes over both."""

    def __init__(
        self,
        sock: socket.socket,
        source: Source,
        terms: Terms,
        *,
        patience: Patience,
        executor: Executor,
        ended: Callable[[Transfer, Outcome, str], None],
    ) -> None:
        self.terms = terms
        self.retransmits = 0
        self._sock = sock
        self._source = source
        self._patience = patience
        self._executor = executor
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._block = terms.block_size
        self._last = source.size // terms.block_size + 1  # a block that is not full ends it, be it empty
        self._packet = bytearray(HEADER.size + terms.block_size)
        self._view = memoryview(self._packet)
        # Blocks are numbered from 1 without end here; on the wire modulo 65536.
        self._acked = 0
        self._sent = 0
        self._highest = 0
        self._recover = 0  # what had been sent when something was last sent again
        self._agreeing = terms.accepted is not None
        self._heard = False
        self._over = False
        self._fetching = False
        self._writing = False
        self._wait_s = terms.wait_s or patience.first_wait_s
        self._round_trip: tuple[float, float] | None = None
        self._timed: tuple[int, float] | None = None
        self._tries = 0
        self._began = self._progress = self._loop.time()
        self._due = self._wakes = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def bytes_acked(self) -> int:
        """How much the client is known to have."""
        return min(self._acked * self._block, self._source.size)

    @property
    def quiet_s(self) -> float:
        """How long nothing new has come from the client."""
        return self._loop.time() - self._progress

    def start(self) -> None:
        """Send the first packet, and go on by itself."""
        self._loop.add_reader(self._sock, self._readable)
        self._arm()
        self._set_timer()
        self._go_on()

    def stop(self, reason: str, *, tell: bool = True) -> None:
        """End it from our side; the client is told, unless it would take that for an answer to something else."""
        self._end(Outcome.FAILED, reason, tell=Fault.UNDEFINED if tell else None)

    # -- in --

    def _readable(self) -> None:
        try:
            packet = self._sock.recv(512)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionRefusedError:
            self._gone()
            return
        except OSError as trouble:
            if trouble.errno not in _PASSING:
                self._end(Outcome.FAILED, str(trouble))
            return
        if len(packet) < HEADER.size:
            return
        opcode, number = HEADER.unpack_from(packet)
        if opcode == ACK:
            self._heard = True
            self._acknowledged(number)
        elif opcode == ERROR:
            self._declined(number, _shown(packet[HEADER.size :]))

    def _acknowledged(self, number: int) -> None:
        if self._agreeing:
            if number:
                return
            self._agreeing = False
            self._advanced()
            self._go_on()
            return
        ahead = (number - self._acked) & 0xFFFF
        reached = self._acked + ahead
        # What is neither in the window nor its edge is old.
        if reached > self._highest or (not ahead and self.terms.window == 1):
            return
        if ahead:
            self._acked = reached
            self._sent = max(self._sent, reached)
            self._advanced()
            if reached == self._last:
                self._end(Outcome.SERVED)
                return
        elif reached <= self._recover:
            return
        if reached < self._sent and reached >= self._recover:
            self._again()
        self._go_on()

    def _advanced(self) -> None:
        """Note that the client got further: patience begins anew, and the round trip may be known."""
        now = self._loop.time()
        self._progress = now
        self._tries = 0
        if self._timed is not None and self._acked >= self._timed[0]:
            self._measured(now - self._timed[1])
            self._timed = None
        self._arm()

    def _measured(self, took_s: float) -> None:
        """Set the wait by the round trips seen: RFC 6298 §2."""
        if self.terms.wait_s is not None:
            return
        if self._round_trip is None:
            mean, spread = took_s, took_s / 2
        else:
            mean, spread = self._round_trip
            spread = 0.75 * spread + 0.25 * abs(mean - took_s)
            mean = 0.875 * mean + 0.125 * took_s
        self._round_trip = mean, spread
        low, high = self._patience.least_wait_s, self._patience.most_wait_s
        self._wait_s = min(max(mean + 4 * spread, low), high)

    def _declined(self, code: int, text: str) -> None:
        reason = f"the client ended it: {text or 'no reason given'} (error {code})"
        asked_only = self._agreeing and "tsize" in (self.terms.accepted or {})
        looked = (code, text) == _CLOSED and self._acked <= 1
        self._end(
            Outcome.PROBED if asked_only else Outcome.LOOKED if looked else Outcome.FAILED,
            reason,
        )

    def _gone(self) -> None:
        """Nobody listens at the client's port any more. After the last block that is the usual way to leave."""
        if self._sent == self._last and self._heard:
            self._acked = self._last
            self._end(Outcome.SERVED)
        else:
            self._end(Outcome.FAILED, "the client has gone")

    # -- out --

    def _go_on(self) -> None:
        """Send what may be sent: the OACK, or the blocks up to the end of the window."""
        if self._over:
            return
        if self._agreeing:
            self._transmit(option_ack(self.terms.accepted or {}))
            return
        until = min(self._acked + self.terms.window, self._last)
        while self._sent < until and not self._fetching and not self._over:
            if not self._send_block(self._sent + 1):
                return
            self._sent += 1
            if self._sent <= self._highest:
                self.retransmits += 1
            else:
                self._highest = self._sent
                if self._sent == until and self._timed is None and self._recover <= self._acked:
                    self._timed = self._sent, self._loop.time()

    def _send_block(self, number: int) -> bool:
        """Send one block. False: not now, `_go_on` is called again."""
        at = (number - 1) * self._block
        end = HEADER.size + min(self._block, self._source.size - at)
        try:
            at_hand = self._source.read_into(self._view[HEADER.size : end], at)
        except OSError as trouble:
            self._unreadable(trouble)
            return False
        if not at_hand:
            self._fetch(at)
            return False
        HEADER.pack_into(self._packet, 0, DATA, number & 0xFFFF)
        return self._transmit(self._view[:end])

    def _transmit(self, packet: bytes | memoryview) -> bool:
        try:
            self._sock.send(packet)
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock, self._writable)
            return False
        except ConnectionRefusedError:
            self._gone()
            return False
        except OSError as trouble:
            if trouble.errno not in _PASSING:
                self._end(Outcome.FAILED, str(trouble))
                return False
        return True

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._writing = False
        self._go_on()

    def _fetch(self, at: int) -> None:
        try:
            fetched = self._loop.run_in_executor(self._executor, self._source.fetch, at)
        except RuntimeError as trouble:  # the executor was shut down
            self._unreadable(trouble)
            return
        self._fetching = True
        fetched.add_done_callback(self._fetched)

    def _fetched(self, done: asyncio.Future[None]) -> None:
        self._fetching = False
        if self._over:
            self._source.close()
        if done.cancelled():
            return
        trouble = done.exception()
        if self._over:
            return
        if trouble is not None:
            self._unreadable(trouble)
            return
        self._arm()
        self._go_on()

    def _unreadable(self, trouble: BaseException) -> None:
        self._end(Outcome.FAILED, f"the content cannot be read: {trouble}", tell=Fault.UNDEFINED)

    # -- again --

    def _again(self) -> None:
        """Go back to what is not acknowledged."""
        self._recover = self._highest
        self._sent = self._acked
        self._timed = None  # an answer now may be to either sending (Karn)

    def _arm(self) -> None:
        wait_s = self._wait_s * 2**self._tries
        self._due = self._loop.time() + min(wait_s, max(self._patience.most_wait_s, self._wait_s))
        if self._due < self._wakes - self._patience.least_wait_s:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes = self._due
        self._timer = self._loop.call_at(self._due, self._wake)

    def _wake(self) -> None:
        """Look whether the client has been silent for too long; the timer may well be early."""
        now = self._loop.time()
        if now - self._began > self._patience.longest_s:
            self._end(Outcome.TIMED_OUT, "it took too long in all", tell=Fault.UNDEFINED)
            return
        if self._fetching:
            self._arm()
        elif now >= self._due:
            tries = self._patience.tries if self._heard else min(self._patience.tries, _UNHEARD_TRIES)
            if self._tries >= tries or now - self._progress > self._patience.silence_s:
                self._end(Outcome.TIMED_OUT, f"no answer for {now - self._progress:.1f} s")
                return
            self._tries += 1
            self._arm()
            if self._agreeing:
                self.retransmits += 1
            else:
                self._again()
            self._go_on()
        if not self._over:
            self._set_timer()

    def _end(self, outcome: Outcome, reason: str = "", *, tell: Fault | None = None) -> None:
        if self._over:
            return
        self._over = True
        if tell is not None:
            try:
                self._sock.send(error(tell, reason))
            except OSError:
                pass  # it was a courtesy
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock)
        if self._writing:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        if not self._fetching:  # else when the thread has let go of it
            self._source.close()
        self._ended(self, outcome, reason)
