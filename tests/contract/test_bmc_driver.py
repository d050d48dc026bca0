"""What every BMC driver does, whatever it speaks. The same expectations for real IPMI and for the simulation.

`pytest tests/contract --bmc ipmi://user:password@host` asks a BMC of yours, reading only;
`--bmc-power` as well switches its machine off and on and sets its boot device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from baremetal.drivers.base import (
    BmcCredentials,
    BmcDriver,
    BmcUrl,
    BootDevice,
    BootFlags,
    Permit,
    PowerState,
    PowerTarget,
)
from baremetal.drivers.registry import open_conversation
from baremetal.engine.conversations import BmcMemo, Conversations
from baremetal.errors import BmcError, BmcErrorKind, Invalid, Refused, Superseded
from baremetal.sim.chassis import BootOrder
from baremetal.sim.knobs import Knobs
from tests.contract.conftest import PASSWORD, SHORT, MakeRig, Rig


def permit() -> None:
    """Allow it."""


def forbid() -> None:
    raise Superseded("aborted meanwhile")


class CountingPermit:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1


def failure(rig: Rig, user: str = "admin", password: str = PASSWORD, options: str = "") -> BmcError:
    """Open a conversation that must fail, and return why."""
    with pytest.raises(BmcError) as caught:
        rig.open(user, password, options).close()
    assert PASSWORD not in str(caught.value)
    return caught.value


class TestReading:
    def test_check_says_who_answers(self, rig: Rig) -> None:
        bmc = rig.open()
        info = bmc.check()
        bmc.close()
        assert info.firmware == "1.42"
        assert info.protocol == "IPMI 2.0"
        assert info.product == "0x0001"

    @pytest.mark.parametrize("on", [True, False])
    def test_power(self, make_rig: MakeRig, on: bool) -> None:
        bmc = make_rig(on=on).open()
        assert bmc.power() is (PowerState.ON if on else PowerState.OFF)
        bmc.close()

    def test_boot_device_when_nothing_was_ever_set(self, rig: Rig) -> None:
        bmc = rig.open()
        assert bmc.boot_device() == BootFlags(valid=False, device=BootDevice.NONE)
        bmc.close()


class TestPower:
    def test_on_and_off_are_read_back(self, rig: Rig) -> None:
        bmc = rig.open()
        bmc.set_power(PowerTarget.ON, permit)
        assert bmc.power() is PowerState.ON
        bmc.set_power(PowerTarget.OFF, permit)
        assert bmc.power() is PowerState.OFF
        bmc.close()
        assert [what for what, _ in rig.chassis.log] == ["on", "off"]

    @pytest.mark.parametrize(("target", "on"), [(PowerTarget.OFF, False), (PowerTarget.ON, True)])
    def test_what_is_so_already_is_no_error_or_a_conflict(
        self, make_rig: MakeRig, target: PowerTarget, on: bool
    ) -> None:
        bmc = make_rig(on=on).open()
        bmc.set_power(target, permit)
        bmc.close()
        strict = make_rig(on=on, strict_state=True).open()
        with pytest.raises(BmcError) as caught:
            strict.set_power(target, permit)
        assert caught.value.kind is BmcErrorKind.CONFLICT
        assert "0xD5" in str(caught.value)
        assert strict.power() is (PowerState.ON if on else PowerState.OFF), "the conversation goes on"
        strict.close()

    def test_soft_off_and_reset_are_for_operators(self, make_rig: MakeRig) -> None:
        rig = make_rig(on=True)
        bmc = rig.open()
        bmc.set_power(PowerTarget.RESET, permit)
        bmc.set_power(PowerTarget.SOFT_OFF, permit)
        bmc.close()
        assert [what for what, _ in rig.chassis.log] == ["reset", "soft-off"]

    def test_a_lie_is_seen_when_read_back(self, make_rig: MakeRig) -> None:
        bmc = make_rig(lie_power=1.0).open()
        bmc.set_power(PowerTarget.ON, permit)
        assert bmc.power() is PowerState.OFF
        bmc.close()

    def test_a_busy_bmc_says_so(self, make_rig: MakeRig) -> None:
        rig = make_rig()
        bmc = rig.open()
        rig.bmc.knobs = Knobs(busy=1.0)
        with pytest.raises(BmcError) as caught:
            bmc.set_power(PowerTarget.ON, permit)
        assert caught.value.kind is BmcErrorKind.BUSY
        bmc.close()


class TestBootDevice:
    @pytest.mark.parametrize("device", [BootDevice.PXE, BootDevice.DISK, BootDevice.CDROM, BootDevice.BIOS])
    @pytest.mark.parametrize("persistent", [True, False])
    @pytest.mark.parametrize("efi", [True, False])
    def test_every_combination_is_read_back(
        self, rig: Rig, device: BootDevice, persistent: bool, efi: bool
    ) -> None:
        bmc = rig.open()
        bmc.set_boot_device(device, persistent=persistent, efi=efi, permit=permit)
        assert bmc.boot_device() == BootFlags(True, device, persistent, efi)
        bmc.close()

    def test_none_clears(self, rig: Rig) -> None:
        bmc = rig.open()
        bmc.set_boot_device(BootDevice.PXE, persistent=True, efi=True, permit=permit)
        bmc.set_boot_device(BootDevice.NONE, persistent=False, efi=False, permit=permit)
        assert bmc.boot_device() == BootFlags(valid=False, device=BootDevice.NONE)
        bmc.close()

    def test_a_bmc_that_refuses_parameter_3_is_served_all_the_same(self, make_rig: MakeRig) -> None:
        rig = make_rig(refuse_parameter_3=True)
        bmc = rig.open()
        bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=permit)
        assert bmc.boot_device() == BootFlags(True, BootDevice.PXE)
        assert rig.bmc.fired["refuse_parameter_3"] == 1
        bmc.close()

    def test_the_order_is_parameter_3_then_5(self, make_rig: MakeRig) -> None:
        rig = make_rig()
        rig.bmc.trace = []
        bmc = rig.open()
        bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=True, permit=permit)
        bmc.close()
        sets = [exchange.data for exchange in rig.bmc.trace if exchange.name == "set-boot-options"]
        assert sets == [bytes([3, 0x08]), bytes([5, 0xA0, 0x04, 0, 0, 0])]

    def test_a_cleared_valid_bit_is_seen_beside_the_device(self, make_rig: MakeRig) -> None:
        bmc = make_rig(stale_flags=1.0).open()
        bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=permit)
        assert bmc.boot_device() == BootFlags(valid=False, device=BootDevice.PXE)
        bmc.close()

    def test_a_locked_parameter_is_unknown_not_false(self, rig: Rig) -> None:
        rig.bmc.handle(0x00, 0x08, bytes([0x85, 0x80, 0x04, 0, 0, 0]), rig.bmc.log_in("admin", PASSWORD))
        bmc = rig.open()
        assert bmc.boot_device().valid is None
        bmc.close()


class TestAccount:
    def test_a_wrong_password(self, rig: Rig) -> None:
        error = failure(rig, password="wrong")
        assert error.kind is BmcErrorKind.AUTH
        assert error.code == "BM102"
        assert rig.bmc.sessions.wrong_passwords <= 1

    def test_an_unknown_user_is_tried_once(self, rig: Rig) -> None:
        error = failure(rig, user="nobody")
        assert error.kind is BmcErrorKind.AUTH
        assert rig.bmc.requests["rakp1"] + rig.bmc.requests["log-in"] == 1

    def test_a_missing_account_is_an_error_and_not_a_guess(self, rig: Rig) -> None:
        with pytest.raises(Invalid, match="the password is missing"):
            open_conversation(BmcUrl.parse(rig.url.replace("://", "://admin@")), None)
        with pytest.raises(Invalid, match="the account is missing"):
            open_conversation(BmcUrl.parse(rig.url), None)
        assert rig.requests == 0

    def test_an_operators_account_is_enough(self, rig: Rig) -> None:
        bmc = rig.open(user="watchman")
        bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=permit)
        bmc.set_power(PowerTarget.ON, permit)
        assert bmc.power() is PowerState.ON
        bmc.close()

    def test_a_privilege_that_is_asked_for_and_not_granted(self, rig: Rig) -> None:
        error = failure(rig, user="watchman", options="privilege=administrator")
        assert error.kind is BmcErrorKind.UNSUPPORTED
        assert "privilege" in str(error)

    def test_a_privilege_that_is_too_low_for_a_write(self, rig: Rig) -> None:
        bmc = rig.open(options="privilege=user")
        assert bmc.power() is PowerState.OFF
        with pytest.raises(BmcError, match="privilege") as caught:
            bmc.set_power(PowerTarget.ON, permit)
        assert caught.value.kind is BmcErrorKind.UNSUPPORTED
        bmc.close()


class TestCipher:
    @pytest.mark.parametrize(
        ("offered", "options"),
        [((3,), ""), ((17,), ""), ((3, 17), "cipher=3"), ((3, 17), "cipher=17"), ((3,), "cipher=3")],
    )
    def test_what_both_have_is_used(self, make_rig: MakeRig, offered: tuple[int, ...], options: str) -> None:
        bmc = make_rig(suites=offered).open(options=options)
        assert bmc.power() is PowerState.OFF
        bmc.close()

    @pytest.mark.parametrize(("offered", "options"), [((3,), "cipher=17"), ((17,), "cipher=3"), ((), "")])
    def test_a_mismatch(self, make_rig: MakeRig, offered: tuple[int, ...], options: str) -> None:
        error = failure(make_rig(suites=offered), options=options)
        assert error.kind is BmcErrorKind.CIPHER
        assert error.code == "BM104"


class TestSessions:
    def test_a_full_table_says_how_long_to_wait(self, make_rig: MakeRig) -> None:
        rig = make_rig(max_sessions=1)
        bmc = rig.open()
        error = failure(rig)
        assert error.kind is BmcErrorKind.SESSION_FULL
        assert error.retry_after_s == 65
        assert bmc.power() is PowerState.OFF
        bmc.close()
        rig.open().close()

    def test_closing_frees_the_slot(self, make_rig: MakeRig) -> None:
        rig = make_rig(max_sessions=1)
        for _ in range(5):
            bmc = rig.open()
            bmc.power()
            bmc.close()
            bmc.close()
        assert len(rig.bmc.sessions) == 0

    def test_nothing_is_asked_after_closing(self, rig: Rig) -> None:
        bmc = rig.open()
        bmc.close()
        before = rig.requests
        with pytest.raises(BmcError, match="over"):
            bmc.power()
        assert rig.requests == before


class TestTrouble:
    def test_a_deaf_bmc(self, rig: Rig) -> None:
        rig.bmc.freeze(1e6)
        start = time.monotonic()
        error = failure(rig)
        assert error.kind is BmcErrorKind.UNREACHABLE
        assert error.code == "BM101"
        assert time.monotonic() - start < 12

    def test_a_bmc_that_talks_rubbish(self, make_rig: MakeRig) -> None:
        rig = make_rig(malformed=1.0)
        expected = BmcErrorKind.PROTOCOL if rig.kind == "ipmi" else BmcErrorKind.UNREACHABLE
        assert failure(rig).kind is expected

    def test_a_bmc_that_begins_to_talk_rubbish(self, rig: Rig) -> None:
        bmc = rig.open(deadlines=SHORT)
        rig.bmc.knobs = Knobs(malformed=1.0)
        with pytest.raises(BmcError) as caught:
            bmc.power()
        assert caught.value.kind in (BmcErrorKind.PROTOCOL, BmcErrorKind.DEADLINE)
        bmc.close()

    def test_a_bmc_that_dies_mid_way(self, rig: Rig) -> None:
        bmc = rig.open(deadlines=SHORT)
        assert bmc.power() is PowerState.OFF
        rig.bmc.freeze(1e6)
        start = time.monotonic()
        with pytest.raises(BmcError) as caught:
            bmc.set_power(PowerTarget.ON, permit)
        assert caught.value.kind is BmcErrorKind.DEADLINE
        with pytest.raises(BmcError) as again:
            bmc.power()
        assert again.value.kind is BmcErrorKind.DEADLINE
        bmc.close()
        assert time.monotonic() - start < 12

    def test_a_bmc_that_restarts_has_forgotten_the_session(self, rig: Rig) -> None:
        bmc = rig.open(deadlines=SHORT)
        rig.bmc.knobs = Knobs(reboot_s=0.0)
        rig.bmc.restart()
        with pytest.raises(BmcError) as caught:
            bmc.power()
        assert caught.value.kind is BmcErrorKind.DEADLINE
        bmc.close()

    def test_a_slow_bmc_is_waited_for(self, make_rig: MakeRig) -> None:
        bmc = make_rig(reply_delay_s=0.2).open()
        bmc.set_power(PowerTarget.ON, permit)
        assert bmc.power() is PowerState.ON
        bmc.close()


class TestPermit:
    @pytest.fixture
    def bmc(self, rig: Rig) -> Iterator[BmcDriver]:
        bmc = rig.open()
        yield bmc
        bmc.close()

    def test_it_is_asked_before_each_write(self, bmc: BmcDriver) -> None:
        asked = CountingPermit()
        bmc.set_power(PowerTarget.ON, asked)
        assert asked.asked == 1
        bmc.set_boot_device(BootDevice.DISK, persistent=True, efi=False, permit=asked)
        assert asked.asked == 3, "parameter 3, parameter 5"

    def test_a_refusal_sends_nothing_and_passes_through(self, bmc: BmcDriver, rig: Rig) -> None:
        before = rig.requests
        with pytest.raises(Superseded, match="aborted meanwhile"):
            bmc.set_power(PowerTarget.ON, forbid)
        with pytest.raises(Superseded):
            bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=forbid)
        assert rig.requests == before
        assert bmc.power() is PowerState.OFF, "the conversation goes on"
        assert rig.chassis.log == []

    def test_it_may_forbid_the_second_write(self, bmc: BmcDriver, rig: Rig) -> None:
        turns = iter([permit, forbid])
        decide: Permit = lambda: next(turns)()  # noqa: E731
        with pytest.raises(Superseded):
            bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=decide)
        assert bmc.boot_device() == BootFlags(valid=False, device=BootDevice.NONE)


class TestOneBadBmc:
    """A BMC that misbehaves costs its own conversations and nobody else's."""

    @pytest.mark.timeout(120)
    def test_healthy_neighbours_notice_nothing(self, make_ipmi_rig: MakeRig) -> None:
        bad = [make_ipmi_rig(malformed=1.0), make_ipmi_rig(loss=1.0), make_ipmi_rig(reply_delay_s=3.0)]
        good = [make_ipmi_rig() for _ in range(4)]
        with ThreadPoolExecutor(16) as pool:
            trouble = [pool.submit(_one_attempt, rig) for rig in bad for _ in range(2)]
            for _ in range(5):
                assert list(pool.map(_one_attempt, good)) == [PowerState.ON] * len(good)
            kinds = {attempt.result() for attempt in trouble}
        assert kinds <= {BmcErrorKind.PROTOCOL, BmcErrorKind.UNREACHABLE, BmcErrorKind.DEADLINE}

    def test_no_account_is_locked_out(self, make_rig: MakeRig) -> None:
        rig = make_rig(lockout_after=2)
        conversations = Conversations(
            lambda url, account: open_conversation(url, account), ForgetfulMemory(), secret=b"s" * 32
        )
        url = BmcUrl.parse(rig.url)

        def knock(_: int) -> BmcErrorKind | None:
            try:
                with conversations.open(url, BmcCredentials("admin", "wrong")):
                    return None
            except BmcError as error:
                return error.kind

        with ThreadPoolExecutor(8) as pool:
            kinds = list(pool.map(knock, range(16)))
        assert sorted(kinds, key=str) == [BmcErrorKind.AUTH] + [BmcErrorKind.FROZEN] * 15
        assert rig.bmc.requests["rakp1"] + rig.bmc.requests["log-in"] == 1
        with conversations.open(url, BmcCredentials("admin", PASSWORD)) as bmc:
            assert bmc.power() is PowerState.OFF


class ForgetfulMemory:
    """Remembers nothing: what the process knows must do."""

    def load(self, identity: str) -> BmcMemo | None:
        return None

    def save(self, identity: str, memo: BmcMemo) -> None:
        pass


class TestLossyNetwork:
    """Whatever gets lost, doubled or overtaken: what a read-back shows is so, and in time it shows what was asked."""

    @pytest.mark.timeout(240)
    @pytest.mark.parametrize("loss", [0.1, 0.2])
    def test_every_write_is_verified_in_time(self, make_rig: MakeRig, loss: float) -> None:
        rigs = [make_rig(seed=seed, loss=loss, dup=0.1, reorder=0.1) for seed in range(6)]
        with ThreadPoolExecutor(len(rigs)) as pool:
            for rig, took_s in zip(rigs, pool.map(_netboot_at_last, rigs), strict=True):
                assert rig.chassis.is_on
                assert rig.chassis.log[0] == ("on", BootOrder(BootDevice.PXE, efi=True))
                assert took_s < 180
                assert rig.bmc.sessions.wrong_passwords == 0

    @pytest.mark.timeout(240)
    def test_half_of_all_packets_lost_verifies_nothing_that_is_not_so(self, make_ipmi_rig: MakeRig) -> None:
        rigs = [make_ipmi_rig(seed=seed, loss=0.5, lie_power=0.5) for seed in range(6)]
        with ThreadPoolExecutor(len(rigs)) as pool:
            for rig, seen in zip(rigs, pool.map(_one_attempt, rigs), strict=True):
                assert seen is not PowerState.ON or rig.chassis.is_on


def _one_attempt(rig: Rig) -> PowerState | BmcErrorKind:
    """Switch on and read back once."""
    bmc = None
    try:
        bmc = rig.open(deadlines=SHORT)
        bmc.set_power(PowerTarget.ON, permit)
        return bmc.power()
    except BmcError as error:
        return error.kind
    finally:
        if bmc:
            bmc.close()


def _netboot_at_last(rig: Rig) -> float:
    """Do what the engine does: read, write what is not so, read back, and open again after trouble."""
    start, wanted = time.monotonic(), BootFlags(True, BootDevice.PXE, False, True)
    while time.monotonic() - start < 180:
        try:
            bmc = rig.open()
        except BmcError as error:
            if not error.transient:
                raise
            continue
        try:
            if bmc.boot_device() != wanted and bmc.power() is PowerState.OFF:
                bmc.set_boot_device(BootDevice.PXE, persistent=False, efi=True, permit=permit)
                assert bmc.boot_device() == wanted
            if bmc.power() is PowerState.OFF:
                bmc.set_power(PowerTarget.ON, permit)
            if bmc.power() is PowerState.ON:
                break
        except BmcError as error:
            if not error.transient:
                raise
        finally:
            bmc.close()
    return time.monotonic() - start


def test_other_schemes_are_refused_in_the_open() -> None:
    with pytest.raises(Refused, match="no driver for redfish"):
        open_conversation(BmcUrl.parse("redfish://admin:x@127.0.0.1"), None)


# -- a BMC of yours ---------------------------------------------------------------------------------------------


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Iterator[BmcDriver]:
    text = request.config.getoption("--bmc")
    if not text:
        pytest.skip("asks a real BMC: --bmc URL")
    bmc = open_conversation(BmcUrl.parse(str(text)), None)
    yield bmc
    bmc.close()


@pytest.fixture
def switchable(request: pytest.FixtureRequest, real: BmcDriver) -> BmcDriver:
    if not request.config.getoption("--bmc-power", default=False):
        pytest.skip("switches a real machine: --bmc-power")
    return real


def test_a_real_bmc_is_read(real: BmcDriver) -> None:
    assert real.check().firmware
    assert real.power() in PowerState
    assert real.boot_device().valid in (True, False, None)


def test_a_real_bmc_sends_nothing_that_is_forbidden(real: BmcDriver) -> None:
    before = real.power(), real.boot_device()
    with pytest.raises(Superseded):
        real.set_power(PowerTarget.OFF, forbid)
    with pytest.raises(Superseded):
        real.set_boot_device(BootDevice.PXE, persistent=False, efi=False, permit=forbid)
    assert (real.power(), real.boot_device()) == before


@pytest.mark.timeout(300)
def test_a_real_machine_obeys(switchable: BmcDriver) -> None:
    _switch(switchable, PowerTarget.OFF)
    for efi in (False, True):
        switchable.set_boot_device(BootDevice.PXE, persistent=False, efi=efi, permit=permit)
        assert switchable.boot_device() == BootFlags(True, BootDevice.PXE, False, efi)
    switchable.set_boot_device(BootDevice.DISK, persistent=True, efi=False, permit=permit)
    assert switchable.boot_device() == BootFlags(True, BootDevice.DISK, True, False)
    switchable.set_boot_device(BootDevice.NONE, persistent=False, efi=False, permit=permit)
    flags = switchable.boot_device()
    assert not flags.valid or flags.device is BootDevice.NONE
    _switch(switchable, PowerTarget.ON)
    _switch(switchable, PowerTarget.OFF)


def _switch(bmc: BmcDriver, target: PowerTarget) -> None:
    wanted = PowerState(target)
    if bmc.power() is not wanted:
        bmc.set_power(target, permit)
    deadline = time.monotonic() + 60
    while bmc.power() is not wanted and time.monotonic() < deadline:
        time.sleep(1)
    assert bmc.power() is wanted
