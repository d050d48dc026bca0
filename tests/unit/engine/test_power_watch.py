"""Power states are read now and then, spread over the interval, and nothing is ever written to a BMC."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl
from baremetal.engine.power_watch import TICKS, UNKNOWN_AFTER, Opener, PowerWatch
from baremetal.errors import BmcError, BmcErrorKind
from baremetal.lifecycle.events import MaintenanceChanged
from baremetal.lifecycle.model import PowerState, ProvisionState
from tests.unit.engine.rig import PASSWORD, DeafBmc, ObedientBmc, Rig

INTERVAL_S = 60.0


class FaintBmc(DeafBmc):
    """Hears nothing while `deaf`."""

    deaf = True

    def log_in(self, credentials: BmcCredentials) -> None:
        if self.deaf:
            super().log_in(credentials)
        self.logins += 1


class Watcher:
    """A watch on a rig, and the batches it opened."""

    def __init__(self, rig: Rig, executor: ThreadPoolExecutor | None = None) -> None:
        self.rig = rig
        self.rounds: list[list[str]] = []
        self.watch = PowerWatch(
            rig.store,
            rig.engine,
            rig.conversations,
            self.round,
            INTERVAL_S,
            executor,
            clock=rig.clock.monotonic,
        )

    @contextmanager
    def round(self) -> Iterator[Opener]:
        batch: list[str] = []
        self.rounds.append(batch)
        rig = self.rig

        class Doors:
            def open(self, url: BmcUrl, credentials: BmcCredentials) -> BmcDriver:
                batch.append(url.host)
                bmc = rig.bmcs[url.host]
                bmc.log_in(credentials)
                return bmc

        yield Doors()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.watch.every_s)):
            self.watch.tick()
            self.rig.clock.pass_time(self.watch.every_s)


@pytest.fixture
def watcher(rig: Rig) -> Watcher:
    return Watcher(rig)


def power(rig: Rig, server_id: str) -> PowerState:
    return rig.store.server(server_id).power_state


def test_every_server_is_read_once_per_interval_and_never_in_a_rush(rig: Rig, watcher: Watcher) -> None:
    ids = [rig.enrol(ObedientBmc(rig.clock, on=number % 2 == 0)) for number in range(100)]
    watcher.run(INTERVAL_S)
    assert [rig.bmc(server_id).reads for server_id in ids] == [1] * 100
    assert power(rig, ids[0]) is PowerState.ON
    assert power(rig, ids[1]) is PowerState.OFF
    assert max(len(batch) for batch in watcher.rounds) == -(-100 // TICKS)
    watcher.run(INTERVAL_S)
    assert [rig.bmc(server_id).reads for server_id in ids] == [2] * 100


def test_drift_is_reported_once_per_change_and_never_corrected(rig: Rig, watcher: Watcher) -> None:
    server_id = rig.enrol(ObedientBmc(rig.clock, on=True), state=ProvisionState.ACTIVE)
    watcher.run(3 * INTERVAL_S)
    rig.bmc(server_id).on = False
    watcher.run(3 * INTERVAL_S)
    assert rig.bmc(server_id).writes == []
    seen = rig.store.history(server_id, kinds=["observation"])
    assert [(entry.note, entry.data["before"]) for entry in seen] == [
        ("power on", "unknown"),
        ("power off", "on"),
    ]
    assert [entry.id for entry in rig.heard] == [entry.id for entry in seen]
    assert rig.life(server_id).state is ProvisionState.ACTIVE
    seen_at = rig.store.server(server_id).power_seen_at
    assert seen_at is not None
    assert (rig.now() - seen_at).total_seconds() <= INTERVAL_S + 2


def test_a_server_with_a_run_is_left_to_its_turns(rig: Rig, watcher: Watcher) -> None:
    server_id = rig.enrol()
    rig.ask(server_id)
    watcher.run(2 * INTERVAL_S)
    assert rig.bmc(server_id).logins == 0


def test_maintenance_hinders_no_reading(rig: Rig, watcher: Watcher) -> None:
    server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
    rig.engine.submit(server_id, MaintenanceChanged(True))
    watcher.run(INTERVAL_S)
    assert power(rig, server_id) is PowerState.ON


def test_a_busy_bmc_is_passed_over(rig: Rig, watcher: Watcher) -> None:
    server_id = rig.enrol()
    url = BmcUrl.parse(rig.store.server(server_id).facts.bmc)
    with rig.conversations.open(url, BmcCredentials("admin", PASSWORD)):
        watcher.run(INTERVAL_S)
    assert rig.bmc(server_id).logins == 1
    watcher.run(INTERVAL_S)
    assert rig.bmc(server_id).logins == 2


def test_a_wrong_password_is_tried_once_and_never_again(rig: Rig, watcher: Watcher) -> None:
    wrong, right = rig.enrol(password="wrong"), rig.enrol()
    watcher.run(5 * INTERVAL_S)
    assert rig.bmc(wrong).logins == 1
    assert rig.bmc(right).logins == 5
    assert power(rig, wrong) is PowerState.UNKNOWN


class TestSilence:
    def test_a_silent_bmc_is_asked_ever_more_seldom_and_its_power_becomes_unknown(
        self, rig: Rig, watcher: Watcher
    ) -> None:
        bmc = FaintBmc(rig.clock, on=True)
        bmc.deaf = False
        server_id = rig.enrol(bmc)
        watcher.run(INTERVAL_S)
        assert power(rig, server_id) is PowerState.ON
        bmc.deaf, bmc.logins = True, 0
        watcher.run((UNKNOWN_AFTER - 1) * INTERVAL_S)
        assert power(rig, server_id) is PowerState.ON, "one lost look is no news"
        watcher.run(INTERVAL_S)
        assert power(rig, server_id) is PowerState.UNKNOWN
        bmc.logins = 0
        watcher.run(3600)
        assert 3 <= bmc.logins <= 8
        bmc.deaf = False
        watcher.run(960)
        assert power(rig, server_id) is PowerState.ON
        notes = [entry.note for entry in rig.store.history(server_id, kinds=["observation"])]
        assert notes == ["power on", "power unknown", "power on"]

    def test_it_is_asked_alone(self, rig: Rig, watcher: Watcher) -> None:
        silent = rig.enrol(DeafBmc(rig.clock))
        others = [rig.enrol() for _ in range(60)]
        watcher.run(2 * INTERVAL_S)
        name = rig.life(silent).name
        assert [len(batch) > 1 for batch in watcher.rounds if name in batch] == [True, False]
        assert all(rig.bmc(server_id).reads == 2 for server_id in others)

    def test_looking_shuts_no_door_on_work(self, rig: Rig, watcher: Watcher) -> None:
        bmc = FaintBmc(rig.clock)
        server_id = rig.enrol(bmc)
        watcher.run(1800)
        bmc.deaf = False
        rig.ask(server_id)
        rig.engine.sweep()
        assert bmc.on, "the breaker was not opened by looks"

    def test_an_open_breaker_is_respected(self, rig: Rig) -> None:
        server_id = rig.enrol(DeafBmc(rig.clock))
        rig.ask(server_id)
        rig.sweep_for(60)
        url = BmcUrl.parse(rig.store.server(server_id).facts.bmc)
        assert rig.conversations.blocked_s(url) > 0
        before = rig.bmc(server_id).logins
        assert rig.conversations.look(url, BmcCredentials("admin", PASSWORD)) is None
        assert rig.bmc(server_id).logins == before


def test_a_server_that_is_forgotten_meanwhile_is_no_trouble(rig: Rig, watcher: Watcher) -> None:
    ids = [rig.enrol() for _ in range(40)]
    watcher.watch.tick()
    rig.store.forget(ids[-1], rig.now(), "operator")
    watcher.run(INTERVAL_S)
    assert rig.bmc(ids[0]).reads >= 1


def test_a_dead_rack_hides_no_living_server(rig: Rig) -> None:
    """Silent BMCs take seconds each; they get half of the threads, and only once they are known to be silent."""
    gate = threading.Event()

    class TarPit(ObedientBmc):
        def log_in(self, credentials: BmcCredentials) -> None:
            gate.wait(20)
            raise BmcError("the BMC does not answer", BmcErrorKind.UNREACHABLE)

    dead = [rig.enrol(DeafBmc(rig.clock)) for _ in range(20)]
    alive = [rig.enrol() for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        inline = Watcher(rig)
        inline.run(INTERVAL_S)
        for server_id in dead:
            rig.bmcs[rig.life(server_id).name] = TarPit(rig.clock)
        watcher = Watcher(rig, pool)
        watcher.watch._silent = inline.watch._silent
        watcher.run(INTERVAL_S)
        until = time.monotonic() + 10
        while not all(rig.bmc(server_id).reads == 2 for server_id in alive):
            watcher.watch.tick()
            assert time.monotonic() < until
            time.sleep(0.01)
        gate.set()
        watcher.watch.stop()
