"""An enrolment goes on by itself, also when the process that began it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from baremetal.drivers import sim as board
from baremetal.drivers.registry import open_conversation
from baremetal.engine.conversations import Conversations
from baremetal.engine.engine import Engine
from baremetal.engine.perform import LoginTarget, Performer
from baremetal.errors import Conflict, LoginError, Refused, Unknown
from baremetal.failpoints import FailpointError, arm, disarm
from baremetal.lifecycle.events import Asked
from baremetal.lifecycle.model import ProvisionState, Verb
from baremetal.service.servers.enrolment import Enrolment
from baremetal.service.servers.roster import InvalidRows
from baremetal.service.servers.servers import Servers, find, ssh_places
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.store.records import RunRecord, ServerRecord
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store


class Forgetful:
    """Keeps no memos."""

    def load(self, identity: str) -> None:
        return None

    def save(self, identity: str, memo: object) -> None:
        return None


def nowhere(record: ServerRecord, run: RunRecord) -> LoginTarget:
    raise LoginError("nobody logs in here", transient=False)


def no_login(address: str, port: int, host_keys: object, deadline_s: float) -> str:
    raise LoginError("nobody logs in here", transient=False)


def now() -> datetime:
    return datetime.now(UTC)


class Rig:
    """A store in memory, an engine without threads, and what was asked to be done later."""

    def __init__(self) -> None:
        self.store = Store.open("sqlite://", Secrets.ephemeral())
        talks = Conversations(open_conversation, Forgetful(), secret=b"s" * 32)
        self.engine = Engine(self.store, talks, Performer(time.sleep, no_login), nowhere, now)
        self.later: list[Callable[[], None]] = []
        self.servers = Servers(self.store, self.engine, thaw=talks.thaw, now=now, later=self.later.append)
        self.engine.listen(self.servers.follow)

    def state(self, name: str = "r1") -> str:
        return self.store.server(name).life.state

    def work(self) -> None:
        while self.later:
            self.later.pop(0)()


@pytest.fixture
def rig() -> Iterator[Rig]:
    board.plug("r1", SimulatedBmc(DummyChassis(), time.monotonic), time.sleep)
    rig = Rig()
    yield rig
    rig.store.close()
    board.unplug("r1")


def new(name: str = "r1", mac: str = "52:54:00:00:00:01", **more: object) -> Enrolment:
    return Enrolment(name, f"sim://admin@{name}", bmc_password="password", macs=[mac], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("adopt", "state"), [(False, "available"), (True, "active")])
def test_an_enrolment_goes_on(rig: Rig, adopt: bool, state: str) -> None:
    rig.servers.enrol([new(adopt=adopt)], "me")
    assert rig.state() == ProvisionState.VERIFYING
    rig.engine.sweep()
    assert rig.state() == ProvisionState.MANAGEABLE
    rig.work()
    assert rig.state() == state


def test_an_enrolment_goes_on_after_a_restart(rig: Rig) -> None:
    rig.servers.enrol([new()], "me")
    rig.engine.sweep()
    rig.later.clear()  # the process dies here
    rig.servers.recover()
    assert rig.state() == ProvisionState.AVAILABLE
    rig.servers.recover()
    assert rig.state() == ProvisionState.AVAILABLE


def test_an_enrolment_whose_process_died_before_verifying_goes_on(rig: Rig) -> None:
    """P4: the row is committed, the process dies before *manage* is asked."""
    arm("api.accept:after=raise")
    try:
        with pytest.raises(FailpointError):
            rig.servers.enrol([new()], "me")
    finally:
        disarm()
    assert rig.state() == ProvisionState.ENROLL
    rig.servers.recover()
    rig.engine.sweep()
    rig.work()
    assert rig.state() == ProvisionState.AVAILABLE


def test_an_operators_own_manage_does_not_go_on(rig: Rig) -> None:
    rig.servers.enrol([new()], "me")
    rig.engine.sweep()
    rig.work()
    rig.engine.submit(rig.store.server("r1").id, Asked(Verb.MANAGE))
    rig.engine.sweep()
    rig.work()
    rig.servers.recover()
    assert rig.state() == ProvisionState.MANAGEABLE


def test_one_wrong_row_takes_none(rig: Rig) -> None:
    with pytest.raises(InvalidRows) as caught:
        rig.servers.enrol([new(), new("r2"), new("r3", "52:54:00:00:00:03", uuid="?")], "me")
    assert [row["row"] for row in caught.value.rows] == [2, 3]
    assert rig.servers.select() == []
    rig.servers.enrol([new(verify=False)], "me")
    with pytest.raises(Conflict, match="r1"):
        rig.servers.enrol([new("r2")], "me")


def test_a_name_goes_before_a_mac(rig: Rig) -> None:
    rig.servers.enrol([new("525400000002", verify=False)], "me")
    board.plug("r2", SimulatedBmc(DummyChassis(), time.monotonic), time.sleep)
    try:
        rig.servers.enrol([new("r2", "52:54:00:00:00:02", verify=False)], "me")
    finally:
        board.unplug("r2")
    assert find(rig.store, "525400000002").life.name == "525400000002"
    assert find(rig.store, "52:54:00:00:00:02").life.name == "r2"
    with pytest.raises(Unknown, match="52:54:00:00:00:03"):
        find(rig.store, "52:54:00:00:00:03")
    with pytest.raises(Unknown, match="r3"):
        find(rig.store, "r3")


def test_forget_needs_force_while_something_is_under_way(rig: Rig) -> None:
    rig.servers.enrol([new()], "me")
    with pytest.raises(Refused, match="under way"):
        rig.servers.forget("r1", "me")
    rig.servers.forget("r1", "me", force=True)
    assert rig.servers.select() == []


def test_a_verb_that_was_accepted_meanwhile_is_not_forgotten(rig: Rig) -> None:
    rig.servers.enrol([new(verify=False)], "me")
    quicker: list[object] = []

    def while_forget_makes_up_its_mind() -> datetime:
        quicker.append(rig.engine.submit(rig.store.server("r1").id, Asked(Verb.MANAGE)))
        return now()

    def thaw(url: object) -> None:
        raise AssertionError("nobody gave credentials")

    slow = Servers(
        rig.store, rig.engine, thaw=thaw, now=while_forget_makes_up_its_mind, later=rig.later.append
    )
    with pytest.raises(Conflict) as caught:
        slow.forget("r1", "me")
    assert caught.value.code == "BM503"
    assert len(quicker) == 1
    assert rig.state() == ProvisionState.VERIFYING


@pytest.mark.parametrize(
    ("variables", "ip", "reported", "places"),
    [
        ({}, "", (), []),
        ({}, "", ("10.0.0.9", "2001:db8::9"), [("10.0.0.9", 22), ("2001:db8::9", 22)]),
        ({}, "10.0.0.5/24", ("10.0.0.5", "10.0.0.9"), [("10.0.0.5", 22), ("10.0.0.9", 22)]),
        ({"ssh_address": "127.0.0.1:2222"}, "10.0.0.5/24", (), [("127.0.0.1", 2222)]),
        ({"ssh_address": "host.example"}, "", (), [("host.example", 22)]),
        ({"ssh_address": "[2001:db8::1]:2222"}, "", (), [("2001:db8::1", 2222)]),
        ({"ssh_address": "2001:db8::1"}, "", (), [("2001:db8::1", 22)]),
    ],
)
def test_where_ssh_is_tried(
    variables: dict[str, str], ip: str, reported: tuple[str, ...], places: list[tuple[str, int]]
) -> None:
    assert ssh_places(variables, ip, reported) == places
