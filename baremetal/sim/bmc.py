"""A simulated BMC as pure state: power, boot options, sessions, and every way in which it may misbehave.

Owns the semantics of the IPMI commands that provisioning needs, for three users alike: `drivers/sim.py` (in
process, on a virtual clock), the RMCP+ server (`rmcp.py`) and the lab (QEMU as chassis). Has no socket, no
thread and no clock of its own: time is read from `clock` (monotonic seconds) and what is due is done when
somebody asks or calls `advance`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from uuid import UUID, uuid5

from baremetal.sim import channel
from baremetal.sim.bootflags import BootOptions
from baremetal.sim.channel import APP, Command
from baremetal.sim.chassis import BootOrder, Chassis
from baremetal.sim.completion import Code, CompletionError, LoginRefused, LoginStatus, Silence
from baremetal.sim.knobs import HEALTHY, Knobs
from baremetal.sim.sessions import Privilege, Session, SessionTable, User

CHASSIS = 0x00
DEFAULT_USERS = (User("admin", "password"),)
_GUIDS = UUID("5b1c1b0e-6f1e-4f43-9b39-0d6f2f0d7d11")


class Control(IntEnum):
    """The actions of Chassis Control (IPMI 2.0 §28.3)."""

    OFF = 0
    ON = 1
    CYCLE = 2
    RESET = 3
    DIAGNOSTIC = 4
    SOFT_OFF = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """What Get Device ID says (§20.1), and the GUID."""

    name: str = "sim"
    device: int = 0x20
    firmware: tuple[int, int] = (1, 0x42)  # the minor part is BCD
    manufacturer: int = 0
    product: int = 0x0001

    @property
    def guid(self) -> bytes:
        """Sixteen bytes that differ between BMCs of different names and never change."""
        return uuid5(_GUIDS, self.name).bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """One command as it was executed, kept when a trace is asked for; `code` None is no answer."""

    at: float
    name: str
    data: bytes
    code: int | None
    reply: bytes


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    run: Callable[[], None] = field(compare=False)


class SimulatedBmc:
    """One BMC in front of one chassis. `knobs` may be replaced at any time; sessions and state survive it."""

    def __init__(
        self,
        chassis: Chassis,
        clock: Callable[[], float],
        knobs: Knobs = HEALTHY,
        rng: random.Random | None = None,
        *,
        users: tuple[User, ...] = DEFAULT_USERS,
        identity: Identity | None = None,
        trace: bool = False,
    ) -> None:
        self.chassis = chassis
        self.clock = clock
        self.knobs = knobs
        self.rng = rng or random.Random(0)
        self.identity = identity or Identity()
        self.fired: Counter[str] = Counter()
        """How often each knob acted, by its name."""
        self.requests: Counter[str] = Counter()
        """Requests received, by command, repeats and logins included."""
        self.trace: list[Exchange] | None = [] if trace else None
        self.sessions = SessionTable(users, self._fire)
        self.options = BootOptions(self.chance, self._fire)
        self._silent_until = 0.0
        self._since_start = 0
        self._due: list[_Due] = []
        self._numbers = 0

    # -- time --

    def advance(self) -> None:
        """Do what has become due: settled power commands, expired boot flags, idle sessions."""
        now = self.clock()
        while self._due and self._due[0].at <= now:
            self._due.pop(0).run()
        self.options.expire(self.knobs, now)
        self.sessions.reap(self.knobs, now)

    def next_due(self) -> float | None:
        """Say when the next settling power command takes effect, in seconds of `clock`; None without one."""
        return self._due[0].at if self._due else None

    def is_silent(self) -> bool:
        """Say whether the BMC answers nothing just now, neither commands nor logins."""
        return self.clock() < self._silent_until

    def freeze(self, for_s: float) -> None:
        """Answer nothing for a while, and lose nothing."""
        self._silent_until = max(self._silent_until, self.clock() + for_s)

    def restart(self) -> None:
        """Restart the BMC, not the machine: it forgets sessions and one-time boot flags, and is away a while."""
        self.sessions.clear()
        self.options.forget_once(self.knobs)
        self._since_start = 0
        self.freeze(self.knobs.reboot_s)

    # -- logins --

    def log_in(
        self, user: str, password: str, *, suite: int | None = None, wanted: Privilege = Privilege.NONE
    ) -> Session:
        """Open a session without packets, at `wanted` or all that the account may. Raises Silence, LoginRefused."""
        self.requests["log-in"] += 1
        if self.is_silent():
            raise Silence
        if (suite not in self.knobs.suites) if suite is not None else not self.knobs.suites:
            self._fire("suites")
            raise LoginRefused(LoginStatus.NO_MATCHING_SUITE)
        now = self.clock()
        self._numbers += 1
        session = self.sessions.open(self._numbers, self.knobs, now)
        try:
            account = self.sessions.identify(session, user, wanted, now)
        except LoginRefused:
            self.sessions.close(session.number)
            raise
        if account.password != password:
            self.sessions.reject(session, self.knobs, now)
            raise LoginRefused(LoginStatus.INVALID_INTEGRITY_VALUE)
        self.sessions.accept(session, now)
        session.privilege = session.limit
        return session

    # -- commands --

    def handle(
        self, netfn: int, command: int, data: bytes, session: Session | None = None
    ) -> tuple[int, bytes]:
        """Execute one command and answer completion code and data. Raises Silence when there is no answer.

        `session` None means outside of any session, where only the commands that precede a login are
        answered.
        """
        known = _COMMANDS.get((netfn, command))
        name = known.name if known else f"{netfn:#04x}/{command:#04x}"
        self.requests[name] += 1
        self.advance()
        if self.is_silent():
            self._note(name, data, None, b"")
            raise Silence
        if session is not None:
            session.used_at = self.clock()
        self._since_start += 1
        self._fail_before()
        if self.chance("reboot"):
            if self.rng.random() < 0.5:
                self._execute(known, session, data)
            self.restart()
            raise Silence
        code, reply = self._execute(known, session, data)
        self._note(name, data, code, reply)
        return code, reply

    def take_boot(self) -> BootOrder:
        """Say what the machine boots, as its firmware finds out; uses up one-time flags.

        Called here for power-on and reset, and by a chassis whose machine restarted itself.
        """
        return self.options.take(self.knobs, self.clock())

    def chance(self, knob: str) -> bool:
        """Draw a knob that is a chance; counts it when it hits."""
        odds: float = getattr(self.knobs, knob)
        if odds and self.rng.random() < odds:
            self._fire(knob)
            return True
        return False

    # -- inside --

    def _fire(self, knob: str) -> None:
        self.fired[knob] += 1

    def _note(self, name: str, data: bytes, code: int | None, reply: bytes) -> None:
        if self.trace is not None:
            self.trace.append(Exchange(self.clock(), name, data, code, reply))

    def _fail_before(self) -> None:
        if self.knobs.crash_after and self._since_start > self.knobs.crash_after:
            self._fire("crash_after")
            self.restart()
            raise Silence
        if self.chance("freeze"):
            self.freeze(self.knobs.freeze_s)
            raise Silence

    def _execute(
        self, known: Command[SimulatedBmc] | None, session: Session | None, data: bytes
    ) -> tuple[int, bytes]:
        if known is None:
            return Code.INVALID_COMMAND, b""
        if session is None:
            if not known.without_session:
                return Code.INSUFFICIENT_PRIVILEGE, b""
        elif session.privilege < known.needs:
            return Code.INSUFFICIENT_PRIVILEGE, b""
        if len(data) < known.least:
            return Code.DATA_TOO_SHORT, b""
        if known.needs and self.chance("busy"):
            return Code.NODE_BUSY, b""
        try:
            return Code.OK, known.run(self, data, session)
        except CompletionError as refused:
            return refused.code, b""

    def _later(self, run: Callable[[], None], after_s: float) -> None:
        self._numbers += 1
        self._due.append(_Due(self.clock() + after_s, self._numbers, run))
        self._due.sort()

    def _device_id(self, _: bytes, __: Session | None) -> bytes:
        who = self.identity
        return (
            bytes(
                (who.device, 0x01, who.firmware[0] & 0x7F, who.firmware[1], 0x02, 0x80)
            )  # IPMI 2.0, a chassis device
            + who.manufacturer.to_bytes(3, "little")
            + who.product.to_bytes(2, "little")
            + bytes(4)
        )

    def _reset_self(self, _: bytes, __: Session | None) -> bytes:
        # answered first, as real ones do when they can: the restart begins behind the reply
        self._later(self.restart, 0.0)
        return b""

    def _chassis_status(self, _: bytes, __: Session | None) -> bytes:
        return bytes((0x60 | self.chassis.is_on, 0x00, 0x00))  # restore policy unknown; no faults

    def _chassis_control(self, data: bytes, _: Session | None) -> bytes:
        try:
            action = Control(data[0] & 0x0F)
        except ValueError:
            raise CompletionError(Code.INVALID_FIELD) from None
        self.options.restart_countdown(self.clock())
        on = self.chassis.is_on
        if self.knobs.strict_state and action is (Control.ON if on else Control.OFF):
            self._fire("strict_state")
            raise CompletionError(Code.NOT_IN_THIS_STATE)
        if not on and action in (Control.CYCLE, Control.RESET, Control.DIAGNOSTIC):
            raise CompletionError(Code.NOT_IN_THIS_STATE)
        if self.chance("lie_power"):
            return b""
        if self.knobs.settle_s:
            self._fire("settle")
            self._later(lambda: self._drive(action), self.knobs.settle_s)
        else:
            self._drive(action)
        return b""

    def _drive(self, action: Control) -> None:
        on = self.chassis.is_on
        if action is Control.ON and not on:
            self.chassis.power_on(self.take_boot())
        elif action is Control.OFF and on:
            self.chassis.power_off()
        elif action is Control.SOFT_OFF and on:
            self.chassis.soft_off()
        elif action is Control.RESET and on:
            self.chassis.reset(self.take_boot())
        elif action is Control.CYCLE and on:
            self.chassis.power_off()
            self.chassis.power_on(self.take_boot())

    def _set_boot_options(self, data: bytes, _: Session | None) -> bytes:
        self.options.write(data[0] & 0x7F, bool(data[0] & 0x80), data[1:], self.knobs, self.clock())
        return b""

    def _get_boot_options(self, data: bytes, _: Session | None) -> bytes:
        return self.options.read(data[0] & 0x7F, self.knobs, self.clock())


_COMMANDS: Final[Mapping[tuple[int, int], Command[SimulatedBmc]]] = {
    (CHASSIS, 0x00): Command(
        "get-chassis-capabilities", Privilege.USER, lambda *_: bytes((0, 0x20, 0x20, 0x20, 0x20))
    ),
    (CHASSIS, 0x01): Command("get-chassis-status", Privilege.USER, SimulatedBmc._chassis_status),
    (CHASSIS, 0x02): Command("chassis-control", Privilege.OPERATOR, SimulatedBmc._chassis_control, least=1),
    (CHASSIS, 0x04): Command("chassis-identify", Privilege.OPERATOR, lambda *_: b""),
    (CHASSIS, 0x06): Command("set-power-restore-policy", Privilege.OPERATOR, lambda *_: b"\x00"),
    (CHASSIS, 0x07): Command("get-restart-cause", Privilege.USER, lambda *_: b"\x01\x01"),
    (CHASSIS, 0x08): Command("set-boot-options", Privilege.OPERATOR, SimulatedBmc._set_boot_options, least=1),
    (CHASSIS, 0x09): Command("get-boot-options", Privilege.OPERATOR, SimulatedBmc._get_boot_options, least=3),
    (APP, 0x01): Command("get-device-id", Privilege.USER, SimulatedBmc._device_id),
    (APP, 0x02): Command("cold-reset", Privilege.ADMINISTRATOR, SimulatedBmc._reset_self),
    (APP, 0x03): Command("warm-reset", Privilege.ADMINISTRATOR, SimulatedBmc._reset_self),
    (APP, 0x04): Command("get-self-test", Privilege.USER, lambda *_: b"\x55\x00"),
    (APP, 0x08): Command(
        "get-device-guid", Privilege.USER, lambda bmc, *_: bmc.identity.guid, without_session=True
    ),
    (APP, 0x37): Command(
        "get-system-guid", Privilege.NONE, lambda bmc, *_: bmc.identity.guid, without_session=True
    ),
    **channel.COMMANDS,
}
