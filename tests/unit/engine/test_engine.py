"""Deciding, recording and acting, on the real store: when several want the same server, when BMCs lie, after a kill."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from baremetal import telemetry
from baremetal.drivers.base import Permit, PowerTarget
from baremetal.engine import engine as module
from baremetal.errors import Unavailable, Unknown
from baremetal.lifecycle.decision import Decision, Outcome
from baremetal.lifecycle.events import Asked, Did, Failed, Fetched, Heard, Intended, MaintenanceChanged
from baremetal.lifecycle.model import (
    Budgets,
    Fetch,
    PowerState,
    Proof,
    ProvisionState,
    Server,
    Signal,
    Verb,
)
from baremetal.store.history import fold
from baremetal.store.records import ServerRecord
from tests.unit.engine.rig import DeafBmc, LyingBmc, ObedientBmc, PausingBmc, Rig, SlowBmc, TwoStepBmc, rig_on
from tests.unit.store.fleet import reserve

S = ProvisionState


class TestSubmit:
    def test_a_decision_is_recorded_with_its_run(self, rig: Rig) -> None:
        server_id = rig.enrol()
        decision = rig.ask(server_id)
        assert decision.server == rig.life(server_id)
        run = rig.store.run(server_id, 1)
        assert run is not None
        assert (run.verb, run.profile) == ("deploy", "tiny")
        assert rig.store.frozen(run.server_id, run.number) == {"some": "text"}
        assert [entry.note for entry in rig.heard] == [decision.note]

    def test_a_lost_guard_is_decided_again(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        server_id = rig.enrol()
        load = rig.store.server
        meddled: list[str] = []

        def load_then_lose(ref: str) -> Any:
            record = load(ref)
            if not meddled:
                meddled.append(ref)
                rig.engine.submit(server_id, MaintenanceChanged(True, by="somebody quicker"))
            return record

        monkeypatch.setattr(rig.store, "server", load_then_lose)
        decision = rig.ask(server_id)
        assert decision.outcome is Outcome.REFUSED
        assert "maintenance" in decision.note

    def test_a_stale_known_record_does_no_harm(self, rig: Rig) -> None:
        server_id = rig.enrol()
        known = rig.store.server(server_id)
        rig.ask(server_id)
        asked = Asked(Verb.RELEASE)
        assert rig.engine.submit(server_id, asked, known=known).outcome is Outcome.REFUSED

    def test_a_guard_that_is_always_lost_ends(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        server_id = rig.enrol()
        monkeypatch.setattr(rig.store, "commit", lambda *_, **__: None)
        with pytest.raises(Unavailable, match="100 times"):
            rig.ask(server_id)

    def test_an_unknown_server_is_unknown(self, rig: Rig) -> None:
        with pytest.raises(Unknown):
            rig.ask("nobody")

    def test_an_edge_outside_the_table_is_never_recorded(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server_id = rig.enrol(state=S.ENROLL)

        def leap(server: Server, *_: object) -> Decision:
            leapt = replace(server, state=S.ACTIVE, generation=server.generation + 1)
            return Decision(leapt, None, "a leap")

        monkeypatch.setattr(module, "decide", leap)
        with pytest.raises(AssertionError, match="no edge"):
            rig.ask(server_id)
        assert rig.life(server_id).state is S.ENROLL

    def test_a_repeated_signal_is_remembered_as_accepted(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id)
        rig.engine.sweep()
        rig.engine.submit(server_id, Fetched(Fetch.SCRIPT))
        for _ in range(2):
            rig.engine.submit(server_id, Heard(Signal.INSTALL_STARTED, 1, "b1"), facts={"disk": "vda"})
        run = rig.store.run(server_id, 1)
        assert run is not None
        assert (set(run.accepted), run.disk) == ({"install-started"}, "vda")

    @pytest.mark.parametrize("kind", ["memory", "file"])
    def test_sixty_four_callers_and_one_winner(self, tmp_path: Path, kind: str) -> None:
        """P14: conflicting verbs on one server, all at once: one begins, the rest are told why."""
        url = "sqlite://" if kind == "memory" else f"sqlite:///{tmp_path}/baremetal.db"
        with rig_on(url) as rig:
            server_id = rig.enrol()
            gate = threading.Barrier(64)

            def ask(number: int) -> Decision:
                gate.wait(30)
                return rig.ask(server_id, (Verb.DEPLOY, Verb.MANAGE)[number % 2], by=f"operator {number}")

            with ThreadPoolExecutor(64) as pool:
                decisions = list(pool.map(ask, range(64)))
            winners = [decision for decision in decisions if decision.outcome is Outcome.CHANGED]
            losers = [decision for decision in decisions if decision.outcome is Outcome.REFUSED]
            assert (len(winners), len(losers)) == (1, 63)
            assert all("run 1 is under way" in decision.note for decision in losers)
            assert rig.life(server_id).runs == 1
            told = rig.store.history(server_id, kinds=["decision"])
            assert len(told) == 64
            assert len({entry.id for entry in told}) == 64
            assert len(rig.store.runs(server_id)) == 1


class TestTurn:
    def test_a_whole_deploy(self, rig: Rig) -> None:
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
        rig.ask(server_id, proof=Proof.SSH)
        rig.engine.sweep()
        bmc = rig.bmc(server_id)
        assert bmc.writes == ["off", "pxe", "on"]
        assert bmc.logins == 1, "one conversation spans the whole of netboot"
        rig.install(server_id)
        rig.engine.sweep()
        assert bmc.writes[3:] == ["disk for ever"]
        rig.engine.submit(server_id, Heard(Signal.FIRST_BOOT, 1, "b2"))
        rig.engine.sweep()
        life = rig.life(server_id)
        assert (life.state, life.deployed, life.last_error) == (S.ACTIVE, 1, "")
        run = rig.store.run(server_id, 1)
        assert run is not None
        assert run.outcome == "active"
        history = rig.store.history(server_id)
        initial = Server(life.name, state=S.AVAILABLE)
        assert replace(fold(history, initial), fence=life.fence) == life, "I8"

    def test_every_write_is_intended_first(self, rig: Rig) -> None:
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
        rig.ask(server_id)
        rig.engine.sweep()
        notes = [entry.note for entry in rig.store.history(server_id, kinds=["decision"])][1:]
        assert notes == [
            "intends power off",
            "power off: done",
            "intends boot device pxe, once",
            "boot device pxe, once: done (read back)",
            "intends power on",
            "power on: done",
        ]

    def test_an_action_of_two_writes_is_intended_once(self, rig: Rig) -> None:
        server_id = rig.enrol(TwoStepBmc(rig.clock))
        rig.ask(server_id)
        rig.engine.sweep()
        assert rig.bmc(server_id).writes == ["keep flags", "pxe", "on"]
        assert rig.notes(server_id).count("intends boot device pxe, once") == 1

    @pytest.mark.parametrize("what", ["abort", "maintenance", "nothing"])
    def test_a_reading_that_is_stale_is_noticed(self, rig: Rig, what: str) -> None:
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
        rig.ask(server_id)
        record = rig.store.server(server_id)
        if what != "nothing":
            interrupt(rig, server_id, what)
        rig.engine.turn(server_id, known=record)
        assert rig.bmc(server_id).writes == (["off", "pxe", "on"] if what == "nothing" else [])
        rig.engine.sweep()
        after = {"abort": ["off"], "maintenance": [], "nothing": ["off", "pxe", "on"]}
        assert rig.bmc(server_id).writes == after[what]

    def test_nothing_owed_is_nothing_done(self, rig: Rig) -> None:
        server_id = rig.enrol()
        fence = rig.life(server_id).fence
        rig.engine.turn(server_id)
        assert rig.life(server_id).fence == fence
        assert rig.bmc(server_id).logins == 0

    def test_a_reserved_server_is_left_alone(self, rig: Rig) -> None:
        server_id = rig.enrol()
        reserve(rig.store, server_id, rig.now() + timedelta(minutes=1), rig.now())
        rig.ask(server_id)
        rig.engine.turn(server_id)
        assert rig.bmc(server_id).logins == 0
        rig.clock.pass_time(61)
        rig.engine.turn(server_id)
        assert rig.bmc(server_id).on

    def test_a_lie_is_retried_later_and_never_inside_the_turn(self, rig: Rig) -> None:
        bmc = LyingBmc(rig.clock)
        server_id = rig.enrol(bmc)
        bmc.lies = 2
        rig.ask(server_id)
        rig.engine.turn(server_id)
        assert bmc.writes == ["pxe", "on"]
        run = rig.life(server_id).run
        assert run is not None
        assert run.retry_at is not None
        assert run.retry_at > rig.now()
        assert "BM112" in run.trouble
        rig.engine.turn(server_id)
        assert bmc.writes == ["pxe", "on"], "not before its time"
        rig.sweep_for(60)
        assert bmc.on
        assert bmc.writes.count("on") == 3

    def test_a_bmc_that_always_lies_ends_in_a_failure_with_its_reason(self, rig: Rig) -> None:
        server_id = rig.enrol(LyingBmc(rig.clock))
        rig.ask(server_id)
        rig.sweep_for(900)
        life = rig.life(server_id)
        assert life.state is S.DEPLOY_FAILED
        assert "BM109" in life.last_error
        assert rig.bmc(server_id).writes.count("on") == 4, "the flap guard"

    def test_a_deaf_bmc_ends_in_a_failure_within_the_budget(self, rig: Rig) -> None:
        server_id = rig.enrol(DeafBmc(rig.clock))
        rig.ask(server_id)
        rig.sweep_for(2400)
        assert rig.life(server_id).state is S.DEPLOY_FAILED
        assert "BM101" in rig.life(server_id).last_error
        assert rig.bmc(server_id).logins < 20, "the breaker spares it"

    def test_a_wrong_password_is_tried_once(self, rig: Rig) -> None:
        server_id = rig.enrol(password="wrong", state=S.ENROLL)
        for _ in range(3):
            rig.ask(server_id, Verb.MANAGE)
            rig.sweep_for(60)
            life = rig.life(server_id)
            assert life.state is S.ENROLL
            assert life.last_error.startswith("BM102")
        assert rig.bmc(server_id).logins == 1
        rig.restart()
        rig.ask(server_id, Verb.MANAGE)
        rig.sweep_for(5)
        assert rig.bmc(server_id).logins == 1, "nor after a restart"

    def test_an_account_that_is_missing_fails_at_once(self, rig: Rig) -> None:
        server_id = rig.enrol(quirks=("settle=soon",))
        rig.ask(server_id)
        rig.engine.sweep()
        life = rig.life(server_id)
        assert life.state is S.DEPLOY_FAILED
        assert "settle=soon" in life.last_error

    def test_another_runs_system_is_no_proof(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id, proof=Proof.SSH)
        rig.engine.sweep()
        rig.install(server_id)
        rig.engine.sweep()
        rig.engine.submit(server_id, Heard(Signal.FIRST_BOOT, 1, "b2"))
        rig.prints = "an older run/7"
        rig.engine.sweep()
        assert rig.life(server_id).state is S.DEPLOYING
        rig.sweep_for(700)
        assert rig.life(server_id).state is S.DEPLOY_FAILED
        assert "an older run/7" in rig.life(server_id).last_error

    def test_the_power_that_was_read_is_noted_once_per_change(self, rig: Rig) -> None:
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True), state=S.ENROLL)
        for _ in range(2):
            rig.ask(server_id, Verb.MANAGE)
            rig.engine.sweep()
            rig.ask(server_id, Verb.PROVIDE)
            assert rig.store.server(server_id).power_state is PowerState.ON
        seen = rig.store.history(server_id, kinds=["observation"])
        assert [entry.note for entry in seen] == ["power on"]
        assert seen[0].id in [entry.id for entry in rig.heard]


class TestPermission:
    """What was decided meanwhile takes a turn's permission away: nothing is sent, and its results are no-ops."""

    @pytest.mark.parametrize("how", ["abort", "maintenance"])
    def test_nothing_is_sent_after(self, rig: Rig, how: str) -> None:
        class InterruptedBmc(ObedientBmc):
            """Somebody decides otherwise while its power is being read."""

            def power(self) -> PowerState:
                if not self.reads:
                    interrupt(rig, server_id, how)
                return super().power()

        server_id = rig.enrol(InterruptedBmc(rig.clock, on=True))
        rig.ask(server_id)
        rig.engine.turn(server_id)
        assert rig.bmc(server_id).writes == []
        assert any("not sent" in note or "no longer wanted" in note for note in rig.notes(server_id))

    @pytest.mark.parametrize("how", ["abort", "maintenance"])
    def test_nothing_is_sent_between_two_writes_of_one_action(self, rig: Rig, how: str) -> None:
        """Somebody decides otherwise after the first of two writes."""
        bmc = PausingBmc(rig.clock, lambda: interrupt(rig, server_id, how))
        server_id: str = rig.enrol(bmc)
        rig.ask(server_id)
        rig.engine.turn(server_id)
        assert rig.bmc(server_id).writes == ["keep flags"]

    def test_a_turn_whose_reservation_has_run_out_writes_no_more(self, rig: Rig) -> None:
        lasts_s = module.RESERVATION.total_seconds()
        server_id = rig.enrol(PausingBmc(rig.clock, lambda: rig.clock.pass_time(lasts_s)))
        rig.ask(server_id)
        rig.engine.turn(server_id)
        assert rig.bmc(server_id).writes == ["keep flags"]
        assert not rig.store.server(server_id).is_held(rig.now())

    @pytest.mark.parametrize("how", ["abort", "maintenance"])
    def test_results_that_come_after_are_no_ops(self, rig: Rig, how: str) -> None:
        server_id = rig.enrol()
        rig.ask(server_id)
        fence = reserve(rig.store, server_id, rig.now() + timedelta(minutes=5), rig.now())
        assert fence is not None
        interrupt(rig, server_id, how)
        before = rig.life(server_id)
        for late in (Intended(1, 0, fence), Did(1, 0, fence, wrote=True)):
            decision = rig.engine.submit(server_id, late)
            assert decision.outcome is Outcome.NOOP
        assert rig.life(server_id) == before
        assert "came too late" in rig.notes(server_id)[-1]

    def test_an_abort_in_the_middle_of_a_slow_write_wins(self, rig: Rig) -> None:
        bmc = SlowBmc(rig.clock, on=True)
        server_id = rig.enrol(bmc)
        rig.ask(server_id)
        rig.clock.later(2.0, lambda: interrupt(rig, server_id, "abort"))
        rig.engine.turn(server_id)
        rig.sweep_for(30)
        assert rig.life(server_id).state is S.DEPLOY_FAILED
        assert not bmc.on
        assert "on" not in bmc.writes
        assert "pxe" not in bmc.writes

    def test_maintenance_and_back(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id)
        interrupt(rig, server_id, "maintenance")
        rig.sweep_for(3600)
        assert rig.bmc(server_id).logins == 0
        rig.engine.submit(server_id, MaintenanceChanged(False))
        rig.sweep_for(2)
        assert rig.bmc(server_id).writes == ["pxe", "on"]


def interrupt(rig: Rig, server_id: str, how: str) -> None:
    event = Asked(Verb.ABORT) if how == "abort" else MaintenanceChanged(True)
    assert rig.engine.submit(server_id, event).outcome is Outcome.CHANGED


class TestSweep:
    @pytest.mark.parametrize("trouble", [Unavailable("gone"), ZeroDivisionError("a bug")])
    def test_one_servers_trouble_is_its_own(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, trouble: Exception
    ) -> None:
        ids = [rig.enrol() for _ in range(3)]
        for server_id in ids:
            rig.ask(server_id)
        turn = rig.engine.turn

        def stumble(server_id: str, *, known: ServerRecord | None = None) -> None:
            if server_id == ids[0]:
                raise trouble
            turn(server_id, known=known)

        monkeypatch.setattr(rig.engine, "turn", stumble)
        with capture_logs() as logs:
            assert rig.engine.sweep() == 3
        assert [rig.bmc(server_id).on for server_id in ids] == [False, True, True]
        assert [entry["server"] for entry in logs] == [ids[0]]

    def test_a_database_that_is_away_is_said_to_be(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> list[str]:
            raise Unavailable("the database does not answer")

        before = _metric("baremetal_sweeps_total", outcome="unavailable")
        monkeypatch.setattr(rig.store, "due", away)
        with pytest.raises(Unavailable):
            rig.engine.sweep()
        assert _metric("baremetal_sweeps_total", outcome="unavailable") == before + 1

    def test_a_passed_deadline_becomes_an_event_once(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id, budgets=Budgets(boot_s=60))
        rig.engine.sweep()
        rig.clock.pass_time(61)
        rig.engine.sweep()
        assert any("netboot begins again" in note for note in rig.notes(server_id))
        rig.engine.sweep()
        assert sum("netboot begins again" in note for note in rig.notes(server_id)) == 1

    def test_after_an_hours_stall_nothing_is_missed(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id)
        rig.clock.pass_time(3600)
        rig.sweep_for(2)
        life = rig.life(server_id)
        assert life.state is S.DEPLOY_FAILED
        assert life.last_error.startswith("BM111")

    def test_how_late_it_was_is_measured(self, rig: Rig) -> None:
        server_id = rig.enrol()
        rig.ask(server_id)
        rig.clock.pass_time(42)
        rig.engine.sweep()
        assert _metric("baremetal_sweep_lag_seconds") == 42.0
        rig.engine.sweep()
        assert _metric("baremetal_sweep_lag_seconds") == 0.0

    def test_a_server_whose_turn_is_under_way_is_behind_in_nothing(self, rig: Rig) -> None:
        """While it only reads it is not reserved, and so every sweep finds it due."""
        server_id = rig.enrol()
        rig.ask(server_id)
        record = rig.store.server(server_id)
        rig.clock.pass_time(90)
        rig.engine._turning[server_id] = False
        assert rig.engine.attend(record, rig.now()) == 0.0
        del rig.engine._turning[server_id]
        assert rig.engine.attend(record, rig.now()) == 90.0

    def test_a_turn_gives_its_reservation_back_with_its_last_commit(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both where it leaves nothing to do and where it must wait: no transaction of its own is needed."""

        def give_back(*held: Any) -> None:
            raise AssertionError("the turn ended with its commit")

        monkeypatch.setattr(rig.store, "unreserve", give_back)
        for bmc in (ObedientBmc(rig.clock), LyingBmc(rig.clock)):
            server_id = rig.enrol(bmc)
            rig.ask(server_id)
            rig.engine.sweep()
            now = rig.engine.now()
            assert reserve(rig.store, server_id, now + timedelta(seconds=1), now) is not None

    def test_a_turn_reserves_its_server_with_its_first_intention(self, rig: Rig) -> None:
        """What only reads needs no reservation, and nobody is kept out by it."""
        held: list[tuple[str, int, bool]] = []

        class WatchedBmc(ObedientBmc):
            def power(self) -> PowerState:
                note("read")
                return super().power()

            def set_power(self, target: PowerTarget, permit: Permit) -> None:
                super().set_power(target, permit)
                note("written")

        def note(what: str) -> None:
            record = rig.store.server(server_id)
            held.append((what, record.life.fence, record.is_held(rig.now())))

        server_id = rig.enrol(WatchedBmc(rig.clock, on=True))
        rig.ask(server_id)
        rig.engine.sweep()
        assert held[0] == ("read", 0, False)
        assert {(fence, is_held) for what, fence, is_held in held if what == "written"} == {(1, True)}
        assert not rig.store.server(server_id).is_held(rig.now())

    def test_an_intention_whose_commit_was_not_answered_holds_nobody_up(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is in the database with its reservation, and nobody here knows of it."""
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
        rig.ask(server_id)
        commit = rig.store.commit

        def unanswered(*what: Any, **more: Any) -> Any:
            commit(*what, **more)
            raise Unavailable("the connection was lost")

        with monkeypatch.context() as lost:
            lost.setattr(rig.store, "commit", unanswered)
            rig.engine.sweep()
        assert rig.store.server(server_id).is_held(rig.now())
        assert rig.bmc(server_id).writes == []
        rig.engine.sweep()
        assert rig.bmc(server_id).writes == ["off", "pxe", "on"]

    def test_a_reservation_that_could_not_be_returned_is_returned_by_the_next_sweep(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database goes away while a turn is under way: neither its end nor the reservation's can be written."""
        server_id = rig.enrol(LyingBmc(rig.clock))
        rig.ask(server_id)
        unreserve, commit, away = rig.store.unreserve, rig.store.commit, [True]

        def give_back(*held: Any) -> None:
            if away:
                raise Unavailable("the database does not answer")
            unreserve(*held)

        def write_down(*what: Any, **more: Any) -> Any:
            if away and isinstance(what[3], Failed):
                raise Unavailable("the database does not answer")
            return commit(*what, **more)

        monkeypatch.setattr(rig.store, "unreserve", give_back)
        monkeypatch.setattr(rig.store, "commit", write_down)
        rig.engine.sweep()
        with pytest.raises(Unavailable):
            rig.engine.sweep()
        away.clear()
        rig.sweep_for(30)
        assert rig.bmc(server_id).writes.count("on") > 1, "it did not wait for the reservation to run out"


class TestNudge:
    """With an executor, a server has one turn at a time, and what is asked meanwhile is one more."""

    def test_nudges_are_gathered(self, rig: Rig) -> None:
        queued: list[Callable[[], None]] = []

        class Later(ThreadPoolExecutor):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
                queued.append(lambda: fn(*args, **kwargs))

        server_id = rig.enrol()
        with Later(1) as pool:
            rig.restart(pool)
            turns: list[str] = []

            def turn(server_id: str, *, known: ServerRecord | None = None) -> None:
                turns.append(server_id)
                if len(turns) == 1:
                    for _ in range(5):
                        rig.engine.nudge(server_id)

            rig.engine.turn = turn  # type: ignore[method-assign]
            for _ in range(10):
                rig.engine.nudge(server_id)
            assert len(queued) == 1
            queued.pop()()
            assert len(turns) == 2, "ten nudges before are one turn, five during it are one more"
            assert queued == []
            rig.engine.nudge(server_id)
            assert len(queued) == 1, "and later ones are heard again"

    def test_a_turn_that_breaks_is_logged_and_the_next_one_comes(self, rig: Rig) -> None:
        with ThreadPoolExecutor(2) as pool:
            server_id = rig.enrol()
            rig.restart(pool)
            done = threading.Event()
            calls: list[str] = []

            def turn(server_id: str, *, known: ServerRecord | None = None) -> None:
                calls.append(server_id)
                if len(calls) == 1:
                    rig.engine.nudge(server_id)
                    raise ZeroDivisionError("a bug")
                done.set()

            rig.engine.turn = turn  # type: ignore[method-assign]
            with capture_logs() as logs:
                rig.engine.nudge(server_id)
                assert done.wait(10)
            assert [entry["event"] for entry in logs] == ["turn broke"]

    def test_fifty_servers_at_once(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(16) as pool, rig_on(f"sqlite:///{tmp_path}/baremetal.db") as rig:
            ids = [rig.enrol() for _ in range(50)]
            rig.restart(pool)
            for server_id in ids:
                rig.ask(server_id)
            wait = threading.Event()
            for _ in range(500):
                if all(rig.bmc(server_id).on for server_id in ids):
                    break
                wait.wait(0.02)
            rig.engine.stop()
            pool.shutdown()
            assert all(rig.bmc(server_id).writes == ["pxe", "on"] for server_id in ids)

    def test_after_stop_nothing_begins(self, rig: Rig) -> None:
        pool = ThreadPoolExecutor(1)
        server_id = rig.enrol()
        rig.restart(pool)
        rig.engine.stop()
        rig.ask(server_id)
        pool.shutdown()
        assert rig.bmc(server_id).logins == 0

    def test_a_nudge_into_a_closed_pool_is_left_to_the_next_process(self, rig: Rig) -> None:
        pool = ThreadPoolExecutor(1)
        server_id = rig.enrol()
        rig.restart(pool)
        pool.shutdown()
        rig.ask(server_id)
        rig.restart()
        rig.engine.sweep()
        assert rig.bmc(server_id).on


class Killed(BaseException):
    """The process is dead."""


@pytest.mark.parametrize("moment", range(24))
def test_a_restart_resumes_from_the_database_alone(tmp_path: Path, moment: int) -> None:
    """Killed before or after any commit of netboot, a new engine on the same file comes to the same end."""
    with rig_on(f"sqlite:///{tmp_path}/baremetal.db") as rig:
        server_id = rig.enrol(ObedientBmc(rig.clock, on=True))
        commit, count = rig.store.commit, [0]

        def mortal(*args: Any, **more: Any) -> Any:
            count[0] += 1
            if count[0] * 2 == moment:
                raise Killed
            entry = commit(*args, **more)
            if count[0] * 2 + 1 == moment:
                raise Killed
            return entry

        rig.store.commit = mortal  # type: ignore[method-assign]
        deploy_until_installing(rig, server_id)
        rig.store.commit = commit  # type: ignore[method-assign]
        deploy_until_installing(rig, server_id)
        if rig.life(server_id).run is not None and rig.step(server_id) < 5:
            rig.install(server_id)
        rig.sweep_for(3)
        life = rig.life(server_id)
        assert (life.state, life.deployed) == (S.ACTIVE, 1)
        bmc = rig.bmc(server_id)
        assert bmc.writes[-1] == "disk for ever"
        assert bmc.writes.count("off") <= 2
        again = Server(life.name, state=S.AVAILABLE)
        assert replace(fold(rig.store.history(server_id), again), fence=life.fence) == life


def deploy_until_installing(rig: Rig, server_id: str) -> None:
    """Be the process from its start to its death, or until it must wait for the machine."""
    rig.restart()
    try:
        if rig.life(server_id).run is None:
            rig.ask(server_id)
        rig.sweep_for(3)
    except Killed:
        return


def test_metrics_tell_what_happened(rig: Rig) -> None:
    labels = {"from_state": "available", "to_state": "deploying"}
    before = _metric("baremetal_transitions_total", **labels)
    ended = _metric("baremetal_runs_total", verb="deploy", outcome="active")
    server_id = rig.enrol()
    rig.ask(server_id)
    rig.engine.sweep()
    rig.install(server_id)
    rig.engine.sweep()
    assert _metric("baremetal_transitions_total", **labels) == before + 1
    assert _metric("baremetal_runs_total", verb="deploy", outcome="active") == ended + 1


def _metric(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0
