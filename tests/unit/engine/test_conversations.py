"""Who may talk to a BMC and when, against small BMCs that each have one character. Time is a number here."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from baremetal import telemetry
from baremetal.drivers.base import (
    BmcCredentials,
    BmcDriver,
    BmcInfo,
    BmcUrl,
    BootDevice,
    BootFlags,
    Permit,
    PowerState,
    PowerTarget,
)
from baremetal.engine.conversations import BREAKER_FAILURES, BmcMemo, Conversations, Limits
from baremetal.errors import BmcError, BmcErrorKind, Invalid

URL = BmcUrl.parse("ipmi://admin@bmc")
RIGHT = BmcCredentials("admin", "right")
WRONG = BmcCredentials("admin", "wrong")
SECRET = b"s" * 32
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class FriendlyBmc:
    """Answers everything and does what it says."""

    def __init__(self) -> None:
        self.on = False
        self.closed = 0

    def check(self) -> BmcInfo:
        return BmcInfo(vendor="Friendly")

    def power(self) -> PowerState:
        return PowerState.ON if self.on else PowerState.OFF

    def set_power(self, target: PowerTarget, permit: Permit) -> None:
        permit()
        self.on = target is PowerTarget.ON

    def boot_device(self) -> BootFlags:
        return BootFlags(valid=False, device=BootDevice.NONE)

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        permit()

    def close(self) -> None:
        self.closed += 1


class FaintingBmc(FriendlyBmc):
    """Lets you in, then hears nothing any more."""

    def power(self) -> PowerState:
        raise BmcError("the BMC stopped answering", BmcErrorKind.DEADLINE)


class BusyBmc(FriendlyBmc):
    """Is there, and has no time."""

    def power(self) -> PowerState:
        raise BmcError("node busy", BmcErrorKind.BUSY)


@dataclass
class House:
    """One BMC behind a door: who may open it, and how often somebody knocked."""

    bmc: FriendlyBmc = field(default_factory=FriendlyBmc)
    trouble: BmcErrorKind | None = None
    password: str = "right"
    knocks: list[BmcCredentials] = field(default_factory=list)

    def __call__(self, url: BmcUrl, credentials: BmcCredentials) -> BmcDriver:
        self.knocks.append(credentials)
        if self.trouble:
            raise BmcError(f"{url.identity}: trouble", self.trouble)
        if credentials.password != self.password:
            raise BmcError(f"{url.identity}: wrong password", BmcErrorKind.AUTH)
        return self.bmc


class Notebook:
    """A memory that keeps what it is given."""

    def __init__(self) -> None:
        self.pages: dict[str, BmcMemo] = {}

    def load(self, identity: str) -> BmcMemo | None:
        return self.pages.get(identity)

    def save(self, identity: str, memo: BmcMemo) -> None:
        self.pages[identity] = memo


class LockedDrawer(Notebook):
    """A memory that cannot be written, for a while."""

    locked = True

    def save(self, identity: str, memo: BmcMemo) -> None:
        if self.locked:
            raise OSError("database is locked")
        super().save(identity, memo)


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def conversations(house: House, notebook: Notebook, clock: Clock) -> Conversations:
    return _conversations(house, notebook, clock)


def _conversations(house: House, notebook: Notebook, clock: Clock, secret: bytes = SECRET) -> Conversations:
    return Conversations(house, notebook, secret=secret, clock=clock, now=lambda: NOON, sleep=clock.sleep)


def _try(
    conversations: Conversations, credentials: BmcCredentials = RIGHT, url: BmcUrl = URL
) -> BmcErrorKind | None:
    try:
        with conversations.open(url, credentials) as bmc:
            bmc.power()
    except BmcError as error:
        return error.kind
    return None


def test_a_conversation_reaches_the_bmc_and_is_closed(conversations: Conversations, house: House) -> None:
    with conversations.open(URL, RIGHT) as bmc:
        bmc.set_power(PowerTarget.ON, lambda: None)
        assert bmc.power() is PowerState.ON
        assert bmc.check().vendor == "Friendly"
        assert house.bmc.closed == 0
    assert house.bmc.closed == 1


def test_a_conversation_is_closed_when_the_caller_fails(conversations: Conversations, house: House) -> None:
    with pytest.raises(ZeroDivisionError), conversations.open(URL, RIGHT):
        raise ZeroDivisionError
    assert house.bmc.closed == 1
    assert _try(conversations) is None


def test_an_account_is_never_invented(conversations: Conversations, house: House) -> None:
    with pytest.raises(Invalid, match="password is missing"), conversations.open(URL, None):
        pass
    assert house.knocks == []


def test_the_urls_own_account_is_used_when_no_other_is_given(
    conversations: Conversations, house: House
) -> None:
    with conversations.open(BmcUrl.parse("ipmi://admin:right@bmc"), None):
        pass
    assert house.knocks == [RIGHT]


class TestOneAtATime:
    def test_a_second_caller_waits_for_the_first(self, conversations: Conversations, house: House) -> None:
        entered, leave, order = threading.Event(), threading.Event(), list[str]()

        def first() -> None:
            with conversations.open(URL, RIGHT):
                entered.set()
                leave.wait(5)
                order.append("first")

        thread = threading.Thread(target=first)
        thread.start()
        entered.wait(5)
        threading.Timer(0.05, leave.set).start()
        with conversations.open(URL, RIGHT):
            order.append("second")
        thread.join()
        assert order == ["first", "second"]

    def test_the_wait_is_bounded(self, conversations: Conversations, house: House) -> None:
        with conversations.open(URL, RIGHT):
            with pytest.raises(BmcError) as caught, conversations.open(URL, RIGHT, wait_s=0.01):
                pass
            assert caught.value.kind is BmcErrorKind.BUSY
            assert caught.value.retry_after_s
        assert len(house.knocks) == 1

    def test_other_bmcs_do_not_wait(self, conversations: Conversations) -> None:
        other = BmcUrl.parse("ipmi://other")
        with conversations.open(URL, RIGHT), conversations.open(other, RIGHT, wait_s=0.01):
            pass

    def test_one_bmc_under_two_urls_is_one_bmc(self, conversations: Conversations) -> None:
        with conversations.open(URL, RIGHT):
            same = BmcUrl.parse("ipmi://root@BMC:623?cipher=3&privilege=operator")
            with pytest.raises(BmcError), conversations.open(same, RIGHT, wait_s=0.01):
                pass


class TestFreeze:
    def test_a_wrong_password_is_tried_once_over_all_callers(
        self, conversations: Conversations, house: House
    ) -> None:
        threads = [threading.Thread(target=_try, args=(conversations, WRONG)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert house.knocks == [WRONG]
        assert _try(conversations, WRONG) is BmcErrorKind.FROZEN

    def test_other_credentials_are_tried(self, conversations: Conversations, house: House) -> None:
        assert _try(conversations, WRONG) is BmcErrorKind.AUTH
        assert _try(conversations, RIGHT) is None
        assert conversations.is_frozen(URL, WRONG)
        assert not conversations.is_frozen(URL, RIGHT)

    def test_two_records_with_two_passwords_do_not_thaw_each_other(
        self, conversations: Conversations, house: House
    ) -> None:
        for _ in range(5):
            _try(conversations, WRONG)
            _try(conversations, RIGHT)
        assert house.knocks.count(WRONG) == 1

    def test_a_restart_does_not_thaw(self, house: House, notebook: Notebook, clock: Clock) -> None:
        _try(_conversations(house, notebook, clock), WRONG)
        assert _try(_conversations(house, notebook, clock), WRONG) is BmcErrorKind.FROZEN
        assert len(house.knocks) == 1

    def test_what_is_remembered_does_not_give_the_password_away(
        self, conversations: Conversations, notebook: Notebook, house: House, clock: Clock
    ) -> None:
        _try(conversations, WRONG)
        memo = notebook.pages[URL.identity]
        assert "wrong" not in repr(memo.refused)
        assert memo.at == NOON
        other = Notebook()
        _try(_conversations(house, other, clock, secret=b"t" * 32), WRONG)
        assert other.pages[URL.identity].refused != memo.refused

    def test_setting_credentials_anew_thaws(self, conversations: Conversations, house: House) -> None:
        _try(conversations, WRONG)
        house.password = "wrong"  # the operator has changed it on the BMC instead
        conversations.thaw(URL)
        assert _try(conversations, WRONG) is None

    def test_a_memory_that_fails_neither_hides_nor_thaws(self, house: House, clock: Clock) -> None:
        drawer = LockedDrawer()
        conversations = _conversations(house, drawer, clock)
        assert _try(conversations, WRONG) is BmcErrorKind.AUTH
        assert _try(conversations, WRONG) is BmcErrorKind.FROZEN
        drawer.locked = False
        assert _try(conversations, WRONG) is BmcErrorKind.FROZEN
        assert drawer.pages[URL.identity].refused

    def test_frozen_says_what_to_do(self, conversations: Conversations) -> None:
        _try(conversations, WRONG)
        with pytest.raises(BmcError) as caught, conversations.open(URL, WRONG):
            pass
        assert caught.value.code == "BM102"
        assert "2026-01-01 12:00:00" in str(caught.value)
        assert "baremetal set" in str(caught.value)
        assert not caught.value.transient


class TestBreaker:
    @pytest.mark.parametrize("kind", [BmcErrorKind.UNREACHABLE, BmcErrorKind.DEADLINE, BmcErrorKind.PROTOCOL])
    def test_it_opens_after_five_and_doubles_with_each_probe(
        self, conversations: Conversations, house: House, clock: Clock, kind: BmcErrorKind
    ) -> None:
        house.trouble = kind
        for _ in range(BREAKER_FAILURES):
            assert _try(conversations) is kind
        spans = []
        for _ in range(6):
            assert _try(conversations) is BmcErrorKind.BREAKER
            spans.append(conversations.blocked_s(URL))
            clock.at += spans[-1]
            assert _try(conversations) is kind, "one probe"
        assert spans == [60, 120, 240, 480, 900, 900]
        assert len(house.knocks) == BREAKER_FAILURES + 6

    def test_it_says_what_was_seen_last_and_what_to_do(
        self, conversations: Conversations, house: House
    ) -> None:
        house.trouble = BmcErrorKind.UNREACHABLE
        errors = []
        for _ in range(BREAKER_FAILURES + 1):
            with pytest.raises(BmcError) as caught, conversations.open(URL, RIGHT):
                pass
            errors.append(caught.value)
        assert errors[-1].kind is BmcErrorKind.BREAKER
        assert errors[-1].seen == errors[0].what
        assert "address, cable and IPMI over LAN" in str(errors[-1])

    def test_a_good_probe_closes_it(self, conversations: Conversations, house: House, clock: Clock) -> None:
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(BREAKER_FAILURES):
            _try(conversations)
        clock.at += 60
        house.trouble = None
        assert _try(conversations) is None
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(BREAKER_FAILURES - 1):
            assert _try(conversations) is BmcErrorKind.UNREACHABLE
        assert conversations.blocked_s(URL) == 0

    def test_a_bmc_that_faints_mid_way_counts_even_when_the_caller_swallows_it(
        self, conversations: Conversations, house: House
    ) -> None:
        house.bmc = FaintingBmc()
        for _ in range(BREAKER_FAILURES):
            with conversations.open(URL, RIGHT) as bmc:
                for _ in range(3):
                    with pytest.raises(BmcError):
                        bmc.power()
        assert _try(conversations) is BmcErrorKind.BREAKER

    @pytest.mark.parametrize("kind", [BmcErrorKind.CIPHER, BmcErrorKind.UNSUPPORTED])
    def test_a_refusal_is_an_answer(
        self, conversations: Conversations, house: House, kind: BmcErrorKind
    ) -> None:
        for _ in range(3):
            house.trouble = BmcErrorKind.UNREACHABLE
            for _ in range(BREAKER_FAILURES - 1):
                _try(conversations)
            house.trouble = kind
            assert _try(conversations) is kind

    def test_a_busy_bmc_is_alive(self, conversations: Conversations, house: House) -> None:
        house.bmc = BusyBmc()
        for _ in range(2 * BREAKER_FAILURES):
            assert _try(conversations) is BmcErrorKind.BUSY

    def test_one_dead_bmc_shuts_no_other(self, conversations: Conversations, house: House) -> None:
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(BREAKER_FAILURES):
            _try(conversations)
        house.trouble = None
        assert _try(conversations, url=BmcUrl.parse("ipmi://other")) is None

    def test_the_refusal_says_when(self, conversations: Conversations, house: House, clock: Clock) -> None:
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(BREAKER_FAILURES):
            _try(conversations)
        clock.at += 20
        with pytest.raises(BmcError) as caught, conversations.open(URL, RIGHT):
            pass
        assert caught.value.retry_after_s == 40
        assert caught.value.transient


class TestPace:
    def test_a_full_session_table_is_given_its_time(
        self, conversations: Conversations, house: House, clock: Clock
    ) -> None:
        house.trouble = BmcErrorKind.SESSION_FULL
        assert _try(conversations) is BmcErrorKind.SESSION_FULL
        house.trouble = None
        clock.at += 64
        assert _try(conversations) is BmcErrorKind.SESSION_FULL
        assert len(house.knocks) == 1
        clock.at += 1
        assert _try(conversations) is None

    @pytest.mark.parametrize(
        ("url", "quirks"),
        [("ipmi://bmc", ["flip=none", "min_interval=5"]), ("ipmi://bmc?min_interval=5", ["min_interval=9"])],
    )
    def test_conversations_keep_their_distance(
        self, conversations: Conversations, clock: Clock, url: str, quirks: list[str]
    ) -> None:
        for pause_s in (0, 2, 10):
            clock.at += pause_s
            with conversations.open(BmcUrl.parse(url), RIGHT, quirks):
                pass
        assert clock.slept == [3]

    def test_no_thread_waits_longer_than_it_was_told(
        self, conversations: Conversations, clock: Clock
    ) -> None:
        with conversations.open(URL, RIGHT):
            pass
        with (
            pytest.raises(BmcError) as caught,
            conversations.open(URL, RIGHT, ["min_interval=30"], wait_s=10),
        ):
            pass
        assert caught.value.kind is BmcErrorKind.BUSY
        assert caught.value.retry_after_s == 30
        assert clock.slept == []

    def test_a_malformed_quirk_is_named(self, conversations: Conversations) -> None:
        quirks = ["min_interval=soon"]
        with pytest.raises(Invalid, match="min_interval=soon"), conversations.open(URL, RIGHT, quirks):
            pass


class TestLimits:
    """What `[bmc]` says, and not only its defaults."""

    def conversations(self, house: House, clock: Clock, limits: Limits) -> Conversations:
        return Conversations(
            house, Notebook(), secret=SECRET, limits=limits, clock=clock, now=lambda: NOON, sleep=clock.sleep
        )

    def test_the_breakers_numbers(self, house: House, clock: Clock) -> None:
        limits = Limits(breaker_failures=2, breaker_first_s=10, breaker_longest_s=25)
        conversations = self.conversations(house, clock, limits)
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(2):
            assert _try(conversations) is BmcErrorKind.UNREACHABLE
        spans = []
        for _ in range(3):
            assert _try(conversations) is BmcErrorKind.BREAKER
            spans.append(conversations.blocked_s(URL))
            clock.at += spans[-1]
            _try(conversations)
        assert spans == [10, 20, 25]

    def test_a_distance_for_all_unless_url_or_quirk_say_otherwise(self, house: House, clock: Clock) -> None:
        conversations = self.conversations(house, clock, Limits(min_interval_s=5))
        for url, quirks in (
            (URL, ()),
            (URL, ()),
            (URL, ("min_interval=2",)),
            (BmcUrl.parse("ipmi://bmc?min_interval=0"), ()),
        ):
            with conversations.open(url, RIGHT, quirks):
                pass
        assert clock.slept == [5, 2]

    def test_so_many_at_once_over_all_bmcs(self, house: House, clock: Clock) -> None:
        conversations = self.conversations(house, clock, Limits(at_once=1))
        other = BmcUrl.parse("ipmi://other")
        with conversations.open(URL, RIGHT):
            with (
                pytest.raises(BmcError, match="max_conversations"),
                conversations.open(other, RIGHT, wait_s=0.01),
            ):
                pass
            assert conversations.look(other, RIGHT) is None
        assert _try(conversations, url=other) is None
        assert len(house.knocks) == 2


class TestLook:
    """Reading a power state in passing: it waits for nothing and weighs nothing."""

    def test_it_reads_and_closes(self, conversations: Conversations, house: House) -> None:
        house.bmc.on = True
        assert conversations.look(URL, RIGHT) is PowerState.ON
        assert house.bmc.closed == 1

    def test_by_another_door(self, conversations: Conversations, house: House) -> None:
        door = House()
        assert conversations.look(URL, RIGHT, opener=door) is PowerState.OFF
        assert (len(door.knocks), len(house.knocks)) == (1, 0)

    def test_it_waits_for_nobody(self, conversations: Conversations, house: House, clock: Clock) -> None:
        with conversations.open(URL, RIGHT):
            assert conversations.look(URL, RIGHT) is None
        assert conversations.look(URL, RIGHT, ["min_interval=5"]) is None
        assert clock.slept == []
        clock.at += 5
        assert conversations.look(URL, RIGHT, ["min_interval=5"]) is PowerState.OFF

    def test_it_freezes_and_is_frozen(self, conversations: Conversations, house: House) -> None:
        with pytest.raises(BmcError):
            conversations.look(URL, WRONG)
        assert conversations.look(URL, WRONG) is None
        assert _try(conversations, WRONG) is BmcErrorKind.FROZEN
        assert house.knocks == [WRONG]

    def test_silence_opens_no_breaker(self, conversations: Conversations, house: House) -> None:
        house.trouble = BmcErrorKind.UNREACHABLE
        for _ in range(3 * BREAKER_FAILURES):
            with pytest.raises(BmcError):
                conversations.look(URL, RIGHT)
        assert conversations.blocked_s(URL) == 0
        for _ in range(BREAKER_FAILURES):
            _try(conversations)
        assert conversations.look(URL, RIGHT) is None
        assert len(house.knocks) == 4 * BREAKER_FAILURES

    def test_a_full_session_table_is_given_its_time(
        self, conversations: Conversations, house: House, clock: Clock
    ) -> None:
        house.trouble = BmcErrorKind.SESSION_FULL
        with pytest.raises(BmcError):
            conversations.look(URL, RIGHT)
        house.trouble = None
        assert conversations.look(URL, RIGHT) is None
        assert _try(conversations) is BmcErrorKind.SESSION_FULL
        clock.at += 65
        assert conversations.look(URL, RIGHT) is PowerState.OFF

    def test_an_account_is_never_invented(self, conversations: Conversations) -> None:
        with pytest.raises(Invalid):
            conversations.look(URL, None)


def test_conversations_are_counted_by_their_end(conversations: Conversations, house: House) -> None:
    def count(outcome: str) -> float:
        labels = {"kind": "ipmi", "outcome": outcome}
        return telemetry.REGISTRY.get_sample_value("baremetal_bmc_conversations_total", labels) or 0.0

    before = (count("ok"), count("unreachable"))
    _try(conversations)
    house.trouble = BmcErrorKind.UNREACHABLE
    _try(conversations)
    assert (count("ok"), count("unreachable")) == (before[0] + 1, before[1] + 1)
