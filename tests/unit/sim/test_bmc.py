"""The simulated BMC without packets: power, boot flags, and each fault knob by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from baremetal.lifecycle.model import BootDevice
from baremetal.sim.bmc import Control, SimulatedBmc
from baremetal.sim.bootflags import BootFlagBytes
from baremetal.sim.chassis import OWN_ORDER, BootOrder, DummyChassis
from baremetal.sim.completion import Code, LoginRefused, LoginStatus, Silence
from baremetal.sim.knobs import HEALTHY, EfiPolicy, Knobs
from baremetal.sim.sessions import Session

PXE = BootFlagBytes(valid=True, persistent=False, efi=False, device=BootDevice.PXE)


class Rig:
    """A BMC, its clock, and a session."""

    def __init__(self, knobs: Knobs = HEALTHY) -> None:
        self.now = 0.0
        self.chassis = DummyChassis()
        self.bmc = SimulatedBmc(self.chassis, lambda: self.now, knobs, random.Random(1), trace=True)
        self.session: Session = self.bmc.log_in("admin", "password")

    def ask(self, netfn: int, command: int, data: bytes = b"") -> tuple[int, bytes]:
        return self.bmc.handle(netfn, command, data, self.session)

    def power(self, action: Control) -> int:
        return self.ask(0, 2, bytes((action,)))[0]

    def is_on(self) -> bool:
        return bool(self.ask(0, 1)[1][0] & 1)

    def set_flags(self, flags: BootFlagBytes) -> int:
        return self.ask(0, 8, b"\x05" + flags.encode())[0]

    def flags(self) -> BootFlagBytes:
        code, data = self.ask(0, 9, b"\x05\x00\x00")
        assert code == 0
        return BootFlagBytes.decode(data[2:])

    def booted(self) -> BootOrder | None:
        return next((boot for what, boot in reversed(self.chassis.log) if what in ("on", "reset")), None)


def test_power_on_off_cycle_reset_and_soft_off_reach_the_chassis() -> None:
    rig = Rig()
    assert not rig.is_on()
    for action, on in (
        (Control.ON, True),
        (Control.RESET, True),
        (Control.CYCLE, True),
        (Control.SOFT_OFF, False),
        (Control.ON, True),
        (Control.OFF, False),
    ):
        assert rig.power(action) == 0
        assert rig.is_on() is on
    assert [what for what, _ in rig.chassis.log] == ["on", "reset", "off", "on", "soft-off", "on", "off"]


def test_asking_for_what_is_already_so_is_ok_and_does_nothing() -> None:
    rig = Rig()
    assert rig.power(Control.OFF) == 0
    rig.power(Control.ON)
    assert rig.power(Control.ON) == 0
    assert len(rig.chassis.log) == 1


@pytest.mark.parametrize("action", [Control.RESET, Control.CYCLE])
def test_reset_and_cycle_of_a_machine_that_is_off_are_refused(action: Control) -> None:
    rig = Rig()
    assert rig.power(action) == Code.NOT_IN_THIS_STATE
    assert rig.chassis.log == []


def test_an_operating_system_may_ignore_soft_off() -> None:
    rig = Rig()
    rig.chassis.obeys_soft_off = False
    rig.power(Control.ON)
    assert rig.power(Control.SOFT_OFF) == 0
    assert rig.is_on()


def test_a_one_time_flag_is_obeyed_once() -> None:
    rig = Rig()
    rig.set_flags(PXE)
    rig.power(Control.ON)
    assert rig.booted() == BootOrder(BootDevice.PXE)
    assert not rig.flags().valid
    rig.power(Control.RESET)
    assert rig.booted() == OWN_ORDER


def test_a_persistent_flag_is_obeyed_until_cleared() -> None:
    rig = Rig()
    rig.set_flags(replace(PXE, persistent=True, efi=True))
    rig.now += 3600
    rig.power(Control.ON)
    rig.power(Control.RESET)
    assert rig.booted() == BootOrder(BootDevice.PXE, efi=True, persistent=True)
    assert rig.flags() == replace(PXE, persistent=True, efi=True)
    rig.set_flags(replace(PXE, valid=False, device=BootDevice.NONE))
    rig.power(Control.RESET)
    assert rig.booted() == OWN_ORDER


def test_a_machine_that_restarts_itself_uses_up_the_flag_too() -> None:
    rig = Rig()
    rig.power(Control.ON)
    rig.set_flags(PXE)
    assert rig.bmc.take_boot() == BootOrder(BootDevice.PXE)
    assert rig.bmc.take_boot() == OWN_ORDER


@pytest.mark.parametrize(("after_s", "left"), [(59.9, True), (60.0, False)])
def test_a_one_time_flag_runs_out_after_60_s(after_s: float, left: bool) -> None:
    rig = Rig()
    rig.set_flags(PXE)
    rig.now += after_s
    assert rig.flags().valid is left
    rig.power(Control.ON)
    assert rig.booted() == (BootOrder(BootDevice.PXE) if left else OWN_ORDER)


def test_a_chassis_command_starts_the_60_s_anew() -> None:
    rig = Rig()
    rig.set_flags(PXE)
    rig.now += 50
    rig.power(Control.OFF)
    rig.now += 50
    assert rig.flags().valid


def test_parameter_3_keeps_a_flag_beyond_60_s() -> None:
    rig = Rig()
    assert rig.ask(0, 8, b"\x03\x08")[0] == 0
    rig.set_flags(PXE)
    rig.now += 3600
    assert rig.flags().valid


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x05\x80", Code.DATA_TOO_SHORT),
        (b"\x05" + bytes(6), Code.DATA_TOO_LONG),
        (b"\x06" + bytes(9), Code.PARAMETER_NOT_SUPPORTED),
        (b"\x7f\x00", Code.PARAMETER_NOT_SUPPORTED),
        (b"", Code.DATA_TOO_SHORT),
    ],
)
def test_boot_options_that_cannot_be_written(data: bytes, code: Code) -> None:
    assert Rig().ask(0, 8, data) == (code, b"")


def test_set_in_progress_is_exclusive_until_complete() -> None:
    rig = Rig()
    assert [rig.ask(0, 8, bytes((0, state)))[0] for state in (1, 1, 2, 0, 1)] == [
        0,
        Code.SET_IN_PROGRESS,
        0,
        0,
        0,
    ]


def test_the_acknowledge_parameter_changes_only_masked_bits() -> None:
    rig = Rig()
    rig.ask(0, 8, b"\x04\xff\x1f")
    rig.ask(0, 8, b"\x04\x01\x00")
    assert rig.ask(0, 9, b"\x04\x00\x00") == (0, b"\x01\x04\x00\x1e")


def test_a_locked_parameter_says_so() -> None:
    rig = Rig()
    rig.ask(0, 8, b"\x85")
    assert rig.ask(0, 9, b"\x05\x00\x00")[1][1] == 0x85


def test_unknown_commands_are_refused() -> None:
    assert Rig().ask(0x2C, 0x3E)[0] == Code.INVALID_COMMAND


def test_the_trace_tells_what_was_asked_and_answered() -> None:
    rig = Rig()
    rig.power(Control.ON)
    assert rig.bmc.trace is not None
    last = rig.bmc.trace[-1]
    assert (last.name, last.data, last.code) == ("chassis-control", b"\x01", 0)


def test_a_locked_account_refuses_the_right_password_until_the_lock_ends() -> None:
    rig = Rig(Knobs(lockout_after=2, lockout_s=100))
    for _ in range(2):
        with pytest.raises(LoginRefused):
            rig.bmc.log_in("admin", "wrong")
    with pytest.raises(LoginRefused) as refused:
        rig.bmc.log_in("admin", "password")
    assert refused.value.status is LoginStatus.UNAUTHORISED_NAME
    rig.now += 100
    assert rig.bmc.log_in("admin", "password").live
    assert rig.bmc.sessions.wrong_passwords == 2


def test_a_new_password_lifts_the_lock() -> None:
    rig = Rig(Knobs(lockout_after=1))
    with pytest.raises(LoginRefused):
        rig.bmc.log_in("admin", "wrong")
    rig.bmc.sessions.set_password("admin", "better")
    assert rig.bmc.log_in("admin", "better").live


def test_a_restart_forgets_sessions_and_one_time_flags_and_leaves_power_alone() -> None:
    rig = Rig()
    rig.power(Control.ON)
    rig.set_flags(PXE)
    rig.bmc.restart()
    with pytest.raises(Silence):
        rig.is_on()
    rig.now += HEALTHY.reboot_s
    assert rig.bmc.sessions.get(rig.session.number) is None
    rig.session = rig.bmc.log_in("admin", "password")
    assert rig.is_on()
    assert not rig.flags().valid


def _settle(rig: Rig) -> bool:
    rig.power(Control.ON)
    before, due = rig.is_on(), rig.bmc.next_due()
    rig.now += 5
    return not before and due == 5 and rig.is_on() and rig.bmc.next_due() is None


def _crash(rig: Rig) -> bool:
    answered = 0
    while True:
        try:
            rig.is_on()
        except Silence:
            return answered == 3
        answered += 1


def _away(for_s: float, keeps_session: bool) -> Callable[[Rig], bool]:
    def check(rig: Rig) -> bool:
        with pytest.raises(Silence):
            rig.is_on()
        rig.bmc.knobs = HEALTHY
        rig.now += for_s - 0.1
        with pytest.raises(Silence):
            rig.is_on()
        rig.now += 0.1
        assert rig.is_on() is False
        return (rig.bmc.sessions.get(rig.session.number) is not None) is keeps_session

    return check


def _reads_back(expected: BootFlagBytes, sent: BootFlagBytes) -> Callable[[Rig], bool]:
    def check(rig: Rig) -> bool:
        return rig.set_flags(sent) == 0 and rig.flags() == expected

    return check


def _boots(expected: BootOrder, sent: BootFlagBytes | None) -> Callable[[Rig], bool]:
    def check(rig: Rig) -> bool:
        if sent:
            rig.set_flags(sent)
        rig.power(Control.ON)
        return rig.booted() == expected

    return check


def _expires(rig: Rig) -> bool:
    rig.ask(0, 8, b"\x03\x08")
    rig.set_flags(PXE)
    rig.now += 30
    assert rig.flags().valid
    rig.now += 30
    return not rig.flags().valid


def _expires_soon(rig: Rig) -> bool:
    rig.set_flags(PXE)
    rig.now += 10
    return not rig.flags().valid


def _reaped(rig: Rig) -> bool:
    rig.now += 5
    rig.bmc.advance()
    return len(rig.bmc.sessions) == 0


def _refused(status: LoginStatus, suite: int | None = None) -> Callable[[Rig], bool]:
    def check(rig: Rig) -> bool:
        with pytest.raises(LoginRefused) as refused:
            rig.bmc.log_in("admin", "password", suite=suite)
        return refused.value.status is status

    return check


def _locked_out(rig: Rig) -> bool:
    with pytest.raises(LoginRefused):
        rig.bmc.log_in("admin", "wrong")
    return _refused(LoginStatus.UNAUTHORISED_NAME)(rig)


EFI_PXE = replace(PXE, efi=True)
KNOBS: list[tuple[str, Knobs, Callable[[Rig], bool]]] = [
    ("max_sessions", Knobs(max_sessions=1), _refused(LoginStatus.TABLE_FULL)),
    ("idle_reap", Knobs(idle_reap_s=5), _reaped),
    ("suites", Knobs(suites=(3, 17)), _refused(LoginStatus.NO_MATCHING_SUITE, suite=0)),
    ("lockout_after", Knobs(lockout_after=1), _locked_out),
    ("freeze", Knobs(freeze=1, freeze_s=7), _away(7, keeps_session=True)),
    ("reboot", Knobs(reboot=1, reboot_s=9), _away(9, keeps_session=False)),
    ("crash_after", Knobs(crash_after=3), _crash),
    ("lie_power", Knobs(lie_power=1), lambda rig: rig.power(Control.ON) == 0 and not rig.is_on()),
    ("settle", Knobs(settle_s=5), _settle),
    ("strict_state", Knobs(strict_state=True), lambda rig: rig.power(Control.OFF) == Code.NOT_IN_THIS_STATE),
    ("busy", Knobs(busy=1), lambda rig: rig.power(Control.ON) == Code.NODE_BUSY and not rig.chassis.is_on),
    ("boot_expiry", Knobs(boot_expiry_s=10), _expires_soon),
    ("ignore_parameter_3", Knobs(ignore_parameter_3=True), _expires),
    (
        "refuse_parameter_3",
        Knobs(refuse_parameter_3=True),
        lambda rig: rig.ask(0, 8, b"\x03\x08")[0] == Code.PARAMETER_NOT_SUPPORTED,
    ),
    ("stale_flags", Knobs(stale_flags=1), _reads_back(replace(PXE, valid=False), PXE)),
    ("efi_policy", Knobs(efi_policy=EfiPolicy.DROPS), _reads_back(PXE, EFI_PXE)),
    ("efi_policy", Knobs(efi_policy=EfiPolicy.REQUIRED), _boots(OWN_ORDER, PXE)),
    ("efi_policy", Knobs(efi_policy=EfiPolicy.BREAKS), _boots(OWN_ORDER, EFI_PXE)),
    ("ignore_persist", Knobs(ignore_persist=True), _reads_back(PXE, replace(PXE, persistent=True))),
    ("ignore_boot", Knobs(ignore_boot=1), _boots(OWN_ORDER, PXE)),
    ("pxe_first", Knobs(pxe_first=True), _boots(BootOrder(BootDevice.PXE), None)),
]


@pytest.mark.parametrize(
    ("name", "knobs", "bites"), KNOBS, ids=[f"{name}-{knobs.efi_policy}" for name, knobs, _ in KNOBS]
)
def test_a_knob_does_what_it_says_and_is_counted(
    name: str, knobs: Knobs, bites: Callable[[Rig], bool]
) -> None:
    rig = Rig(knobs)
    assert bites(rig)
    assert rig.bmc.fired[name] >= 1
    assert set(rig.bmc.fired) == {name}


def test_no_knob_is_without_a_test() -> None:
    tested = {name for name, _, _ in KNOBS}
    on_the_wire = {"loss", "dup", "reorder", "delay", "malformed", "reply_delay"}
    companions = {"freeze_s", "reboot_s", "lockout_s"}
    names = {field.name for field in fields(Knobs)} - companions
    assert {name.removesuffix("_s") for name in names} == tested | on_the_wire


def test_knobs_come_from_plain_values_and_are_checked() -> None:
    knobs = Knobs(efi_policy="drops", suites=[17])  # type: ignore[arg-type]
    assert knobs == Knobs(efi_policy=EfiPolicy.DROPS, suites=(17,))
    with pytest.raises(ValueError, match="busy is a chance"):
        Knobs(busy=1.5)
    with pytest.raises(ValueError, match="no suite 4"):
        Knobs(suites=(4,))


def test_a_healthy_bmc_draws_no_chance_and_fires_nothing() -> None:
    rig = Rig()
    state = rig.bmc.rng.getstate()
    rig.set_flags(PXE)
    rig.power(Control.ON)
    rig.power(Control.OFF)
    rig.is_on()
    assert rig.bmc.rng.getstate() == state
    assert not rig.bmc.fired


def test_the_same_seed_misbehaves_the_same_way() -> None:
    def life(seed: int) -> list[object]:
        rig = Rig(Knobs(lie_power=0.3, busy=0.2, stale_flags=0.3, ignore_boot=0.3))
        rig.bmc.rng.seed(seed)
        for turn in range(100):
            rig.set_flags(PXE)
            rig.power(Control.ON if turn % 2 else Control.OFF)
        return [*rig.chassis.log, dict(rig.bmc.fired)]

    assert life(5) == life(5)
    assert life(5) != life(6)
