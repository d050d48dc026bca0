"""The driver of simulated BMCs: the same words as over IPMI, and every fault with its kind of error."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from baremetal.drivers import sim
from baremetal.drivers.base import (
    BmcCredentials,
    BmcDriver,
    BmcUrl,
    BootDevice,
    BootFlags,
    PowerState,
    PowerTarget,
)
from baremetal.drivers.registry import open_conversation
from baremetal.errors import BmcError, BmcErrorKind, Superseded
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import BootOrder, DummyChassis
from baremetal.sim.knobs import HEALTHY, EfiPolicy, Knobs
from baremetal.sim.sessions import Privilege, User


def allow() -> None:
    """The permit that is given."""


class Rig:
    """A BMC on the board at sim://node1, with time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.chassis = DummyChassis()
        users = (User("admin", "password"), User("night", "shift", Privilege.OPERATOR))
        self.bmc = SimulatedBmc(self.chassis, lambda: self.now, rng=random.Random(1), users=users)
        sim.plug("node1", self.bmc, self.sleep)

    def sleep(self, for_s: float) -> None:
        self.now += for_s

    def open(self, user: str = "admin", password: str = "password", query: str = "") -> BmcDriver:
        return open_conversation(BmcUrl.parse(f"sim://node1{query}"), BmcCredentials(user, password))


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield Rig()
    sim.unplug()


def kind_of(call: Callable[[], object]) -> BmcErrorKind:
    with pytest.raises(BmcError) as caught:
        call()
    assert "sim://node1" in str(caught.value)
    assert "password" not in str(caught.value).replace("the BMC's password", "")
    return caught.value.kind


def test_power_and_boot_device_reach_the_machine(rig: Rig) -> None:
    bmc = rig.open()
    assert bmc.check().protocol == "IPMI 2.0"
    assert bmc.power() is PowerState.OFF
    bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=True, permit=allow)
    assert bmc.boot_device() == BootFlags(valid=True, device=BootDevice.PXE, efi=True)
    bmc.set_power(PowerTarget.ON, allow)
    assert bmc.power() is PowerState.ON
    assert rig.chassis.log == [("on", BootOrder(BootDevice.PXE, efi=True))]
    bmc.set_boot_device(BootDevice.DISK, persistent=True, efi=False, permit=allow)
    bmc.set_power(PowerTarget.RESET, allow)
    assert rig.chassis.log[-1] == ("reset", BootOrder(BootDevice.DISK, persistent=True))
    bmc.set_boot_device(BootDevice.NONE, persistent=False, efi=False, permit=allow)
    assert bmc.boot_device().valid is False
    bmc.set_power(PowerTarget.SOFT_OFF, allow)
    assert bmc.power() is PowerState.OFF
    bmc.close()
    bmc.close()
    assert len(rig.bmc.sessions) == 0
    assert rig.now == 0, "a healthy BMC answers at once"


def test_without_the_permit_nothing_is_sent(rig: Rig) -> None:
    def forbid() -> None:
        raise Superseded("another worker moved first")

    bmc = rig.open()
    with pytest.raises(Superseded):
        bmc.set_power(PowerTarget.ON, forbid)
    with pytest.raises(Superseded):
        bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=forbid)
    assert rig.bmc.requests["chassis-control"] + rig.bmc.requests["set-boot-options"] == 0


def test_nothing_by_that_name_is_unreachable() -> None:
    with pytest.raises(BmcError) as caught:
        open_conversation(BmcUrl.parse("sim://nowhere"), BmcCredentials("a", "b"))
    assert caught.value.kind is BmcErrorKind.UNREACHABLE


@pytest.mark.parametrize(
    ("knobs", "user", "password", "query", "kind"),
    [
        (HEALTHY, "admin", "wrong", "", BmcErrorKind.AUTH),
        (HEALTHY, "nobody", "password", "", BmcErrorKind.AUTH),
        (HEALTHY, "night", "shift", "?privilege=administrator", BmcErrorKind.UNSUPPORTED),
        (Knobs(suites=(3,)), "admin", "password", "?cipher=17", BmcErrorKind.CIPHER),
        (Knobs(max_sessions=0), "admin", "password", "", BmcErrorKind.SESSION_FULL),
        (Knobs(loss=1), "admin", "password", "", BmcErrorKind.UNREACHABLE),
    ],
)
def test_a_login_that_fails_has_its_kind(
    rig: Rig, knobs: Knobs, user: str, password: str, query: str, kind: BmcErrorKind
) -> None:
    rig.bmc.knobs = knobs
    assert kind_of(lambda: rig.open(user, password, query)) is kind
    assert rig.now <= 12.0


def test_a_wrong_password_is_tried_once(rig: Rig) -> None:
    kind_of(lambda: rig.open(password="wrong"))
    assert rig.bmc.sessions.wrong_passwords == 1


def test_an_operator_may_do_what_provisioning_needs(rig: Rig) -> None:
    bmc = rig.open("night", "shift")
    bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=allow)
    bmc.set_power(PowerTarget.ON, allow)
    assert rig.chassis.is_on


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        (Knobs(strict_state=True), BmcErrorKind.CONFLICT),
        (Knobs(busy=1), BmcErrorKind.BUSY),
        (Knobs(freeze=1, freeze_s=100), BmcErrorKind.DEADLINE),
        (Knobs(reboot=1), BmcErrorKind.DEADLINE),
        (Knobs(crash_after=1), BmcErrorKind.DEADLINE),
        (Knobs(loss=1), BmcErrorKind.DEADLINE),
        (Knobs(malformed=1), BmcErrorKind.PROTOCOL),
        (Knobs(reply_delay_s=100), BmcErrorKind.DEADLINE),
    ],
)
def test_a_command_that_fails_has_its_kind(rig: Rig, knobs: Knobs, kind: BmcErrorKind) -> None:
    bmc = rig.open()
    bmc.power()
    rig.bmc.knobs = knobs
    assert kind_of(lambda: bmc.set_power(PowerTarget.OFF, allow)) is kind
    assert rig.now <= 35.0
    rig.bmc.knobs = HEALTHY
    bmc.close()


def test_after_silence_the_conversation_is_over_and_its_slot_waits_to_be_reaped(rig: Rig) -> None:
    bmc = rig.open()
    rig.bmc.freeze(100)
    assert kind_of(bmc.power) is BmcErrorKind.DEADLINE
    assert kind_of(bmc.power) is BmcErrorKind.DEADLINE
    bmc.close()
    assert len(rig.bmc.sessions) == 1
    rig.now += 100
    rig.open()
    assert len(rig.bmc.sessions) == 1


def test_a_session_that_was_reaped_meanwhile_is_silent(rig: Rig) -> None:
    bmc = rig.open()
    rig.now += 61
    assert kind_of(bmc.power) is BmcErrorKind.DEADLINE
    assert rig.bmc.requests["get-chassis-status"] == 0


def test_lies_are_passed_on_for_the_read_back_to_catch(rig: Rig) -> None:
    rig.bmc.knobs = Knobs(lie_power=1, stale_flags=1, efi_policy=EfiPolicy.DROPS)
    bmc = rig.open()
    bmc.set_power(PowerTarget.ON, allow)
    assert bmc.power() is PowerState.OFF
    bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=True, permit=allow)
    assert bmc.boot_device() == BootFlags(valid=False, device=BootDevice.PXE, efi=False)


def test_a_lossy_wire_repeats_and_may_execute_twice(rig: Rig) -> None:
    rig.bmc.knobs = Knobs(loss=0.3, dup=0.3, delay=0.1)
    asked = 0
    for turn in range(40):
        try:
            bmc = rig.open()
            bmc.set_power(PowerTarget.ON if turn % 2 else PowerTarget.OFF, allow)
            asked += 1
            bmc.close()
        except BmcError:
            rig.now += 60
    assert rig.bmc.requests["chassis-control"] > asked
    assert {"loss", "dup", "delay"} <= set(rig.bmc.fired)


def test_a_packet_that_was_held_up_is_executed_late(rig: Rig) -> None:
    bmc = rig.open()
    rig.bmc.knobs = Knobs(reorder=1)
    bmc.set_power(PowerTarget.ON, allow)
    rig.bmc.knobs = HEALTHY
    bmc.set_power(PowerTarget.OFF, allow)
    assert [what for what, _ in rig.chassis.log] == ["on", "off"]
    assert rig.bmc.requests["chassis-control"] == 3
