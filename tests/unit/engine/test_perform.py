"""How one action is made true on BMCs of every character, and when it is not believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from baremetal.drivers.base import BootFlags
from baremetal.engine.perform import VERIFY_TOTAL_S, LoginTarget, Performer, Quirks, Seen
from baremetal.errors import BmcError, BmcErrorKind, Invalid, LoginError, Superseded
from baremetal.lifecycle.actions import Action, CheckAccess, EnsureBootDevice, EnsurePower
from baremetal.lifecycle.model import BootDevice, BootMode, PowerState
from baremetal.sim.clock import VirtualClock
from tests.unit.engine.rig import (
    NO_FLAGS,
    ForgetfulBmc,
    GrumpyBmc,
    LyingBmc,
    MumblingBmc,
    ObedientBmc,
    SimpleBmc,
    SlowBmc,
)

ON, OFF = EnsurePower(PowerState.ON), EnsurePower(PowerState.OFF)
PXE, DISK = EnsureBootDevice(BootDevice.PXE), EnsureBootDevice(BootDevice.DISK, persistent=True)
CLEAR = EnsureBootDevice(BootDevice.NONE)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def no_login(address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str:
    raise AssertionError("nobody logs in here")


def forbid() -> None:
    raise Superseded("aborted meanwhile")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def perform(
    bmc: ObedientBmc,
    action: Action,
    *quirks: str,
    mode: BootMode = BootMode.BIOS,
    permit: Callable[[], None] = lambda: None,
) -> Seen:
    performer = Performer(bmc.clock.pass_time, no_login)
    return performer.perform(action, bmc, mode, Quirks.parse(quirks), permit)


def kind(bmc: ObedientBmc, action: Action, *quirks: str, mode: BootMode = BootMode.BIOS) -> BmcErrorKind:
    with pytest.raises(BmcError) as caught:
        perform(bmc, action, *quirks, mode=mode)
    return caught.value.kind


@pytest.mark.parametrize("action", [ON, OFF, PXE, DISK, CLEAR], ids=str)
@pytest.mark.parametrize("on", [True, False])
def test_every_effect_twice_is_the_same_as_once(clock: VirtualClock, action: Action, on: bool) -> None:
    bmc = ObedientBmc(clock, on=on)
    perform(bmc, action)
    once = (bmc.on, bmc.flags)
    perform(bmc, action)
    assert (bmc.on, bmc.flags) == once


@pytest.mark.parametrize("action", [ON, OFF, PXE, DISK], ids=str)
def test_an_effect_that_failed_once_is_repeated_to_the_same_end(clock: VirtualClock, action: Action) -> None:
    on = action is OFF
    good = ObedientBmc(clock, on=on)
    perform(good, action)
    bad: LyingBmc | ForgetfulBmc
    if action in (ON, OFF):
        bad = LyingBmc(clock, on=on)
        bad.lies = 1
    else:
        bad = ForgetfulBmc(clock, on=on)
        bad.forgets = 1
    assert kind(bad, action) is BmcErrorKind.NO_EFFECT
    assert perform(bad, action).wrote
    assert (bad.on, bad.flags) == (good.on, good.flags)


class TestPower:
    def test_what_is_so_already_is_not_written(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock, on=True)
        assert perform(bmc, ON) == Seen(wrote=False, power=PowerState.ON)
        assert (bmc.writes, bmc.reads) == ([], 1)

    def test_a_write_is_read_back(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        assert perform(bmc, ON) == Seen(wrote=True, power=PowerState.ON)
        assert bmc.writes == ["on"]

    def test_a_slow_bmc_is_waited_for(self, clock: VirtualClock) -> None:
        assert perform(SlowBmc(clock), ON).power is PowerState.ON
        assert clock.monotonic() < VERIFY_TOTAL_S

    def test_but_never_longer_than_eight_seconds(self, clock: VirtualClock) -> None:
        bmc = SlowBmc(clock)
        bmc.settle_s = 60.0
        assert kind(bmc, ON) is BmcErrorKind.NO_EFFECT
        assert clock.monotonic() == VERIFY_TOTAL_S
        assert bmc.writes == ["on"], "a write is repeated only in another turn, after it was read"

    def test_polling_grows_from_a_fifth_of_a_second(self, clock: VirtualClock) -> None:
        naps: list[float] = []
        bmc = LyingBmc(clock)
        performer = Performer(naps.append, no_login)
        with pytest.raises(BmcError):
            performer.perform(ON, bmc, BootMode.BIOS, Quirks(), lambda: None)
        assert naps[:4] == [0.2, 0.4, 0.8, 1.6]
        assert max(naps) == 2.0
        assert sum(naps) == pytest.approx(VERIFY_TOTAL_S)

    def test_a_liar_is_not_believed(self, clock: VirtualClock) -> None:
        with pytest.raises(BmcError) as caught:
            perform(LyingBmc(clock), ON)
        assert caught.value.code == "BM112"
        assert caught.value.transient
        assert "power off" in str(caught.value)

    def test_not_in_this_state_is_settled_by_reading(self, clock: VirtualClock) -> None:
        assert perform(GrumpyBmc(clock), ON).power is PowerState.ON

    def test_any_other_refusal_is_an_error(self, clock: VirtualClock) -> None:
        class BusyBmc(ObedientBmc):
            def switch(self, target: object) -> None:
                raise BmcError("node busy", BmcErrorKind.BUSY)

        assert kind(BusyBmc(clock), ON) is BmcErrorKind.BUSY

    @pytest.mark.parametrize(("quirk", "pause_s"), [("settle=3", 3.0), ("settle=99", 10.0)])
    def test_some_machines_need_a_pause_before_on(
        self, clock: VirtualClock, quirk: str, pause_s: float
    ) -> None:
        bmc = ObedientBmc(clock)
        perform(bmc, ON, quirk)
        assert clock.monotonic() == pause_s
        perform(bmc, OFF, quirk)
        assert clock.monotonic() == pause_s, "only between off and on"

    def test_without_permission_nothing_is_sent(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        for action in (ON, PXE, DISK):
            with pytest.raises(Superseded):
                perform(bmc, action, permit=forbid)
        assert bmc.writes == []


class TestBootDevice:
    def test_a_one_time_flag_is_always_set_anew(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        for _ in range(2):
            assert perform(bmc, PXE).wrote
        assert bmc.writes == ["pxe", "pxe"], "the one that stands may be about to expire"

    def test_a_persistent_one_only_where_it_differs(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        assert perform(bmc, DISK).wrote
        assert not perform(bmc, DISK).wrote
        assert bmc.writes == ["disk for ever"]

    def test_clearing_what_is_clear_writes_nothing(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        assert not perform(bmc, CLEAR).wrote
        bmc.flags = BootFlags(True, BootDevice.PXE)
        assert perform(bmc, CLEAR).wrote
        assert bmc.flags == NO_FLAGS

    def test_a_cleared_valid_bit_beside_a_device_does_not_count(self, clock: VirtualClock) -> None:
        with pytest.raises(BmcError) as caught:
            perform(ForgetfulBmc(clock), PXE)
        assert caught.value.kind is BmcErrorKind.NO_EFFECT
        assert caught.value.code == "BM105"
        assert "not valid, pxe, once" in str(caught.value)

    def test_flags_that_cannot_be_read_need_a_quirk(self, clock: VirtualClock) -> None:
        assert kind(MumblingBmc(clock), PXE) is BmcErrorKind.NO_EFFECT
        assert perform(MumblingBmc(clock), PXE, "flags_unreadable").wrote

    def test_the_efi_bit_follows_the_boot_mode(self, clock: VirtualClock) -> None:
        bmc = ObedientBmc(clock)
        perform(bmc, PXE, mode=BootMode.UEFI)
        perform(bmc, PXE, "efi=never", mode=BootMode.UEFI)
        perform(bmc, PXE, mode=BootMode.BIOS)
        assert bmc.writes == ["pxe efi", "pxe", "pxe"]

    def test_a_dropped_efi_bit_is_noticed_unless_it_is_known(self, clock: VirtualClock) -> None:
        assert kind(SimpleBmc(clock), PXE, mode=BootMode.UEFI) is BmcErrorKind.NO_EFFECT
        assert perform(SimpleBmc(clock), PXE, "efi=never", mode=BootMode.UEFI).wrote


def test_check_access_writes_nothing(clock: VirtualClock) -> None:
    bmc = ObedientBmc(clock, on=True)
    seen = perform(bmc, CheckAccess(), permit=forbid)
    assert (seen.power, seen.wrote) == (PowerState.ON, False)
    assert seen.text == "Obedient 1.0, power on"
    assert bmc.writes == []


def test_a_malformed_quirk_is_named() -> None:
    with pytest.raises(Invalid, match="settle=soon"):
        Quirks.parse(["settle=soon"])
    assert Quirks.parse(["flip=none", "settle=", "local_boot=exit"]) == Quirks()


class TestProof:
    """The login that shows what runs."""

    TARGET = LoginTarget((("10.0.0.5", 22), ("10.0.0.6", 2222)), ("ssh-ed25519 AAAA",), "abc/2")

    def prove(self, answers: dict[str, str], target: LoginTarget = TARGET) -> Seen:
        def login(address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str:
            assert host_keys == target.host_keys
            assert deadline_s == 20.0
            if address not in answers:
                raise LoginError(f"{address} does not answer", transient=True, silent=True)
            if answers[address] == "another key":
                raise LoginError(f"{address} showed another host key", transient=True)
            return answers[address]

        return Performer(lambda _: None, login).prove(target)

    def test_it_prints_the_runs_id(self) -> None:
        assert "10.0.0.5 port 22" in self.prove({"10.0.0.5": "abc/2\n"}).text

    def test_the_second_address_will_do(self) -> None:
        assert "10.0.0.6 port 2222" in self.prove({"10.0.0.6": "abc/2"}).text

    def test_another_runs_id_is_no_proof(self) -> None:
        with pytest.raises(LoginError, match="not the one this run installed") as caught:
            self.prove({"10.0.0.5": "abc/1\n", "10.0.0.6": "abc/20"})
        assert caught.value.transient, "the old system may be up a little longer"

    def test_no_answer_is_told_as_it_was(self) -> None:
        with pytest.raises(LoginError, match=r"10\.0\.0\.5 does not answer"):
            self.prove({})

    @pytest.mark.parametrize("said", ["another key", "abc/1"])
    def test_silence_elsewhere_does_not_hide_what_answered(self, said: str) -> None:
        for address in ("10.0.0.5", "10.0.0.6"):
            with pytest.raises(LoginError, match=r"another host key|not the one"):
                self.prove({address: said})

    def test_no_address_says_what_to_do(self) -> None:
        with pytest.raises(LoginError, match="ssh_address"):
            self.prove({}, LoginTarget((), (), "abc/2"))
