"""The driver of simulated BMCs in this process: `sim://NAME`, for the simulation, benchmarks and tests.

Owns the board where simulated BMCs are plugged in by name, and a client's patience on a lossy wire without packets:
what vanishes is asked again, so that a write may be executed twice, as over the real network. The commands and the
classes of their errors are `ipmi.py`'s, so that simulated lives run through the code that real BMCs see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from baremetal.drivers.base import BmcCredentials, BmcUrl, Deadlines, Permit
from baremetal.drivers.ipmi import IpmiDriver
from baremetal.errors import BmcErrorKind
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.completion import LoginRefused, LoginStatus, Silence
from baremetal.sim.sessions import Privilege, Session

Sleep = Callable[[float], None]
T = TypeVar("T")

_REPEAT_S = 1.0
"""How long the first answer is waited for; every further one half as long again."""

_REFUSALS = {
    LoginStatus.TABLE_FULL: (BmcErrorKind.SESSION_FULL, "the BMC has no free session"),
    LoginStatus.UNAUTHORISED_NAME: (BmcErrorKind.AUTH, "the BMC does not know this user"),
    LoginStatus.UNAUTHORISED_ROLE: (BmcErrorKind.UNSUPPORTED, "the BMC does not grant this privilege"),
    LoginStatus.INVALID_INTEGRITY_VALUE: (BmcErrorKind.AUTH, "the BMC's password is another one"),
    LoginStatus.NO_MATCHING_SUITE: (BmcErrorKind.CIPHER, "the BMC refuses the cipher suite"),
}


@dataclass(frozen=True, slots=True)
class Socket:
    """Where a simulated BMC is plugged in. `sleep` passes time on the clock that the BMC reads."""

    bmc: SimulatedBmc
    sleep: Sleep


_board: dict[str, Socket] = {}


def plug(name: str, bmc: SimulatedBmc, sleep: Sleep = lambda _: None) -> None:
    """Make a simulated BMC answer at `sim://NAME`. Replaces what was there."""
    _board[name] = Socket(bmc, sleep)


def unplug(name: str | None = None) -> None:
    """Take one BMC off the board, or all. Idempotent."""
    if name is None:
        _board.clear()
    else:
        _board.pop(name, None)


class SimDriver(IpmiDriver):
    """One session with one simulated BMC. Implements `BmcDriver`."""

    def __init__(self, url: BmcUrl, credentials: BmcCredentials, deadlines: Deadlines) -> None:
        """Log in. Raises BmcError of any kind."""
        self._place = url.identity
        self._deadlines = deadlines
        self._over = False
        self._late: tuple[int, int, bytes] | None = None
        found = _board.get(url.host)
        if found is None:
            raise self._error(
                "the BMC does not answer", BmcErrorKind.UNREACHABLE, seen="nothing plugged in by this name"
            )
        self._bmc, self._sleep = found.bmc, found.sleep
        wanted = Privilege[url.privilege.upper()] if url.privilege else Privilege.NONE

        def log_in() -> Session:
            return self._bmc.log_in(credentials.user, credentials.password, suite=url.cipher, wanted=wanted)

        try:
            self._session: Session = self._patiently(log_in, deadlines.connect_s)
        except LoginRefused as refused:
            kind, what = _REFUSALS[refused.status]
            raise self._error(what, kind, seen=f"status 0x{refused.status:02x}") from None
        except Silence:
            raise self._error("the BMC does not answer", BmcErrorKind.UNREACHABLE, seen="no packet") from None

    def close(self) -> None:
        """Close the session, unless the BMC does not answer: then its slot waits to be reaped."""
        if self._over:
            return
        self._over = True
        sid = self._session.number.to_bytes(4, "little")
        try:
            self._patiently(lambda: self._execute(0x06, 0x3C, sid), 3.0)
        except Silence:
            return

    def _ask(
        self, request: tuple[Any, ...], deadline_s: float, permit: Permit | None = None
    ) -> tuple[Any, ...]:
        if self._over:
            raise self._error("the conversation is over", BmcErrorKind.DEADLINE)
        _, netfn, command, data = request
        if permit is not None:
            permit()
        rubbish = self._bmc.fired["malformed"]
        try:
            return self._patiently(lambda: self._execute(netfn, command, data), deadline_s)
        except Silence:
            self._over = True
            if self._bmc.fired["malformed"] > rubbish:
                raise self._error("the BMC answers with malformed packets", BmcErrorKind.PROTOCOL) from None
            raise self._error(
                "the BMC stopped answering",
                BmcErrorKind.DEADLINE,
                seen=f"silence after command {netfn:#04x}/{command:#04x}",
            ) from None

    def _patiently(self, ask: Callable[[], T], within_s: float) -> T:
        """Ask until there is an answer, over a wire with the BMC's own knobs. Raises Silence when time is up."""
        bmc, knobs = self._bmc, self._bmc.knobs
        left_s, wait_s = within_s, _REPEAT_S
        while True:
            took_s = knobs.reply_delay_s
            if knobs.delay:
                bmc.fired["delay"] += 1
                took_s += bmc.rng.random() * 2 * knobs.delay
            try:
                if knobs.loss and bmc.chance("loss"):
                    raise Silence
                answer = ask()
                if (knobs.loss and bmc.chance("loss")) or bmc.chance("malformed") or took_s > left_s:
                    raise Silence
            except Silence:
                wait_s = min(wait_s, left_s)
                self._sleep(wait_s)
                left_s -= wait_s
                if left_s <= 0:
                    raise
                wait_s *= 1.5
                continue
            if took_s:
                self._sleep(took_s)
            return answer

    def _execute(self, netfn: int, command: int, data: bytes) -> tuple[int, bytes]:
        bmc = self._bmc
        bmc.advance()  # sessions are reaped by time, not by being asked
        if bmc.sessions.get(self._session.number) is not self._session:
            raise Silence  # reaped, or forgotten in a restart: the BMC ignores what it cannot place
        if self._late is not None:  # an earlier packet that was held up comes now, and is executed once more
            late, self._late = self._late, None
            bmc.handle(*late, self._session)
        if bmc.chance("reorder"):
            self._late = (netfn, command, data)
        if bmc.chance("dup"):
            bmc.handle(netfn, command, data, self._session)
        return bmc.handle(netfn, command, data, self._session)
