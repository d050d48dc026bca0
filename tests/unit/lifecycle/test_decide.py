"""The exceptions that `tests/golden/transitions.md` lists: one test each, on values alone."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from msgspec.structs import replace

from baremetal.lifecycle.actions import EnsureBootDevice, EnsurePower
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.events import (
    Asked,
    Did,
    Event,
    Failed,
    Fetched,
    Heard,
    Intended,
    MaintenanceChanged,
    Overdue,
)
from baremetal.lifecycle.model import (
    BootDevice,
    BootTarget,
    Budgets,
    Fetch,
    Method,
    PowerState,
    Proof,
    ProvisionState,
    Server,
    Signal,
    Verb,
)
from baremetal.lifecycle.moves import owed
from baremetal.lifecycle.table import (
    BOOT,
    DISKLESS,
    LATER,
    MUCH_LATER,
    NEWS,
    NOW,
    RESULTS,
    VERBS,
    live,
    position,
    positions,
)
from baremetal.lifecycle.windows import answer_window_open, boot_window_open, boots_volume, tokens_live

MOVING = [name for name in positions() if "/" in name]
DEPLOY = Asked(Verb.DEPLOY, method=Method.INSTALLER)


def at(name: str) -> Server:
    return positions()[name]


def heard(server: Server, signal: Signal, **more: str) -> Decision:
    assert server.run is not None
    return decide(
        server,
        Heard(signal, server.run.number, **({"boot_id": BOOT, "disk": "vda"} | more)),  # type: ignore[arg-type]
        LATER,
    )


def result(server: Server, **more: object) -> Did:
    assert server.run is not None
    return Did(server.run.number, server.run.step, server.fence, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("stale", ["run", "step", "fence"])
def test_a_stale_result_is_a_recorded_noop(name: str, stale: str) -> None:
    server = at(name)
    assert server.run is not None
    values = {"run": server.run.number, "step": server.run.step, "fence": server.fence}
    values[stale] -= 1
    run, step, fence = values.values()
    results = (
        Intended(run, step, fence),
        Did(run, step, fence),
        Failed(run, step, fence, error="BM101", transient=False),
    )
    for event in results:
        decision = decide(server, event, LATER)
        assert (decision.outcome, decision.server) == (Outcome.NOOP, server)


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("signal", list(Signal))
def test_a_signal_of_another_run_is_gone(name: str, signal: Signal) -> None:
    """I22."""
    server = at(name)
    assert server.run is not None
    decision = decide(server, Heard(signal, server.run.number - 1, boot_id=BOOT), LATER)
    assert (decision.outcome, decision.server, decision.reply) == (Outcome.NOOP, server, Reply.GONE)


@pytest.mark.parametrize("name", [name for name in MOVING if name.endswith("closing")])
def test_a_closing_run_has_no_tokens_and_no_windows(name: str) -> None:
    server = at(name)
    assert server.run is not None
    assert not tokens_live(server, server.run.number)
    assert not boot_window_open(server)
    assert not answer_window_open(server)
    assert heard(server, Signal.INSTALL_COMPLETE).reply is Reply.GONE


def test_a_machine_is_sent_to_its_volume_once_there_is_a_system_on_it() -> None:
    """I7: an active diskless server always, in maintenance too; never one that is being released or has failed."""
    sent = {name for name in positions() if boots_volume(at(name))}
    clone = {"on", "script", "first boot", "proof", "tidy"}
    onto = {"flip", "first boot", "proof", "tidy"}
    assert sent == {
        "active",
        *(f"{verb} by clone/{step}" for verb in ("deploy", "rebuild") for step in clone),
        *(f"{verb} to iscsi/{step}" for verb in ("deploy", "rebuild") for step in onto),
    }
    active = replace(DISKLESS, state=ProvisionState.ACTIVE)
    assert boots_volume(active)
    assert boots_volume(replace(active, maintenance=True))
    assert not boots_volume(replace(active, target=BootTarget.DISK))
    for verb, step in ((Verb.RELEASE, "off"), (Verb.UNRESCUE, "boot")):
        state = ProvisionState.ACTIVE if verb is Verb.RELEASE else ProvisionState.RESCUE
        lived = next(s for s in live(str(verb), replace(DISKLESS, state=state)) if position(s).endswith(step))
        assert boots_volume(lived) is (verb is Verb.UNRESCUE)


def test_no_volume_outlives_a_release_whose_wipe_fails() -> None:
    """From `clean failed` ways lead to `available` that know of no volume, so that it must be gone by then."""
    ends = set()
    for lived in live("release --wipe", replace(DISKLESS, state=ProvisionState.ACTIVE)):
        ended = decide(lived, Asked(Verb.ABORT), LATER).server
        while ended.run is not None:
            ended = decide(ended, RESULTS["did"](ended), LATER).server
        ends.add(ended.state)
        assert ended.volumes == () or ended.state is ProvisionState.ERROR, position(lived)
    assert ends == {ProvisionState.ERROR, ProvisionState.CLEAN_FAILED, ProvisionState.AVAILABLE}


def test_the_windows_open_with_the_intention_and_close_on_go_and_complete() -> None:
    """I1, I4."""
    boot = {name for name in positions() if boot_window_open(at(name))}
    answer = {name for name in positions() if answer_window_open(at(name))}
    wipe = {f"provide --wipe/{step}" for step in ("on", "script", "started")}
    assert {n for n in boot if n.startswith("provide")} == wipe
    assert {n for n in answer if n.startswith("provide")} == wipe | {"provide --wipe/complete"}
    assert {n for n in boot if n.startswith("inspect")} == {
        f"inspect/{s}" for s in ("on", "script", "complete")
    }
    assert {n for n in boot if n.startswith("rescue")} == {f"rescue/{s}" for s in ("on", "script", "started")}
    assert not {n for n in boot | answer if n.startswith("unrescue")}, "its power-on sends nobody to netboot"
    for verb in ("deploy", "rebuild", "deploy to iscsi", "rebuild to iscsi"):
        assert {n for n in boot if n.startswith(f"{verb}/")} == {
            f"{verb}/on",
            f"{verb}/script",
            f"{verb}/started",
        }
        assert {n for n in answer if n.startswith(f"{verb}/")} == {
            f"{verb}/on",
            f"{verb}/script",
            f"{verb}/started",
            f"{verb}/complete",
        }
    assert all("/" in name for name in boot | answer)


@pytest.mark.parametrize("name", list(positions()))
def test_maintenance_owes_nothing_refuses_verbs_and_serves_no_installer(name: str) -> None:
    """I17."""
    server = decide(at(name), MaintenanceChanged(True), LATER).server
    assert server.fence == at(name).fence + 1
    assert owed(server) is None
    assert not boot_window_open(server)
    for verb in Verb:
        if verb is not Verb.ABORT:
            assert decide(server, VERBS[verb](server), LATER).outcome is Outcome.REFUSED


@pytest.mark.parametrize("name", MOVING)
def test_maintenance_stops_the_clock(name: str) -> None:
    server = at(name)
    assert server.run is not None
    assert server.run.deadline is not None
    left = server.run.deadline - LATER
    on = decide(server, MaintenanceChanged(True), LATER).server
    assert on.run is not None
    assert on.run.deadline is None
    assert decide(on, Overdue(on.run.number, on.run.step), MUCH_LATER).outcome is Outcome.NOOP
    off = decide(on, MaintenanceChanged(False), MUCH_LATER).server
    assert off.run is not None
    assert off.run.deadline == MUCH_LATER + left


def test_go_waits_in_maintenance_and_is_given_afterwards() -> None:
    server = decide(at("deploy/started"), MaintenanceChanged(True), LATER).server
    waiting = heard(server, Signal.INSTALL_STARTED)
    assert (waiting.reply, waiting.outcome) == (Reply.WAIT, Outcome.NOOP)
    server = decide(waiting.server, MaintenanceChanged(False), LATER).server
    assert heard(server, Signal.INSTALL_STARTED).reply is Reply.GO


def test_signals_are_recorded_in_maintenance() -> None:
    server = decide(at("deploy/complete"), MaintenanceChanged(True), LATER).server
    done = heard(server, Signal.INSTALL_COMPLETE)
    assert position(done.server) == "deploy/flip"
    assert done.action is None
    assert done.server.run is not None
    assert done.server.run.deadline is None
    resumed = decide(done.server, MaintenanceChanged(False), MUCH_LATER)
    assert resumed.action == EnsureBootDevice(BootDevice.DISK, persistent=True)


def test_abort_in_maintenance_closes_at_once_and_switches_off_later() -> None:
    server = decide(at("deploy/complete"), MaintenanceChanged(True), LATER).server
    aborted = decide(server, Asked(Verb.ABORT), LATER)
    assert (position(aborted.server), aborted.action) == ("deploy/closing", None)
    resumed = decide(aborted.server, MaintenanceChanged(False), LATER)
    assert resumed.action == EnsurePower(PowerState.OFF)


def test_a_server_found_on_is_not_deployed_without_force() -> None:
    check = at("manage/check")
    found = decide(check, result(check, power=PowerState.ON), LATER).server
    available = decide(found, Asked(Verb.PROVIDE), LATER).server
    assert decide(available, DEPLOY, LATER).outcome is Outcome.REFUSED
    assert position(decide(available, replace(DEPLOY, force=True), LATER).server) == "deploy/off"


def test_a_released_server_is_deployed_without_force() -> None:
    server = replace(at("active"), found_on=True, deployed=3)
    *_, available = live("release", server)
    assert (available.found_on, available.deployed) == (False, 0)
    assert decide(available, DEPLOY, LATER).outcome is Outcome.CHANGED


def test_deploying_an_active_server_names_rebuild() -> None:
    decision = decide(at("active"), DEPLOY, LATER)
    assert decision.outcome is Outcome.REFUSED
    assert "--rebuild" in decision.note


def test_verifying_and_enrolling_write_nothing() -> None:
    """I20: manage only reads; aborting it does not switch anything off either."""
    server = at("manage/check")
    aborted = decide(server, Asked(Verb.ABORT), LATER)
    assert (aborted.server.state, aborted.action) == (ProvisionState.ENROLL, None)


def test_stale_boot_flags_are_set_again_before_power_on() -> None:
    server = next(s for s in live("deploy", at("available")) if position(s) == "deploy/on")
    server = server.with_run(power_on_intended=False)
    assert server.run is not None
    late = NOW + timedelta(seconds=60)
    decision = decide(server, Intended(server.run.number, server.run.step, server.fence), late)
    assert position(decision.server) == "deploy/pxe"
    assert not boot_window_open(decision.server)


def test_boot_flags_that_are_always_too_old_end_the_run() -> None:
    server, now = at("deploy/on").with_run(power_on_intended=False), NOW
    seen = []
    for _ in range(3):
        now += timedelta(seconds=60)
        server = decide(server, RESULTS["intended"](server), now).server
        seen.append(position(server))
        if not (server.run and server.run.closing):
            server = decide(server, result(server, wrote=True), now).server
    assert seen == ["deploy/pxe", "deploy/pxe", "deploy/closing"]


def test_a_deadline_that_has_passed_closes_the_window_before_anybody_sweeps() -> None:
    """I4."""
    started = at("deploy/started")
    assert decide(started, Fetched(Fetch.SCRIPT), MUCH_LATER).reply is Reply.LOCAL
    assert decide(started, NEWS["install-started"](started), MUCH_LATER).reply is Reply.REFUSED


def test_in_maintenance_no_disk_is_named_after_go() -> None:
    """I17, for the installer that asks twice."""
    early = heard(at("deploy/started"), Signal.INSTALL_STARTED, disk="").server
    kept = decide(early, MaintenanceChanged(True), LATER).server
    assert heard(kept, Signal.INSTALL_STARTED, disk="sda").reply is Reply.WAIT
    assert heard(kept, Signal.INSTALL_STARTED, disk="").reply is Reply.GO


def test_found_on_is_not_forgotten_by_a_later_check() -> None:
    check = replace(at("manage/check"), found_on=True)
    assert decide(check, result(check, power=PowerState.OFF), LATER).server.found_on


def test_power_on_that_nobody_intended_begins_netboot_again() -> None:
    server = at("deploy/on").with_run(power_on_intended=False)
    decision = decide(server, result(server, power=PowerState.ON), LATER)
    assert position(decision.server) == "deploy/off"
    assert decision.server.run is not None
    assert decision.server.run.attempt == 2


def test_power_on_intended_before_a_crash_counts() -> None:
    server = at("deploy/on")
    assert position(decide(server, result(server, wrote=False), LATER).server) == "deploy/script"


def test_the_third_missed_boot_ends_with_the_power_off() -> None:
    server, now = at("deploy/script"), NOW
    seen = []
    for _ in range(3):
        assert server.run is not None
        now += timedelta(seconds=server.run.budgets.boot_s + 1)
        server = decide(server, RESULTS["overdue"](server), now).server
        seen.append(position(server))
        for name in ("did", "did", "intended", "did"):
            if not (server.run and server.run.closing):
                server = decide(server, RESULTS[name](server), now).server
    assert seen == ["deploy/off", "deploy/off", "deploy/closing"]
    assert owed(server) == EnsurePower(PowerState.OFF)
    ended = decide(server, result(server, wrote=True), now).server
    assert ended.state is ProvisionState.DEPLOY_FAILED
    assert "BM301" in ended.last_error


@pytest.mark.parametrize("event", ["go", "script"])
@pytest.mark.parametrize("reboots", [False, True])
def test_a_second_boot_after_go_fails_the_run_unless_the_installer_reboots(event: str, reboots: bool) -> None:
    """I3."""
    server = at("deploy/complete").with_run(reboots=reboots)
    assert server.run is not None
    asked: Event = (
        Heard(Signal.INSTALL_STARTED, server.run.number, boot_id="boot-2", disk="vda")
        if event == "go"
        else Fetched(Fetch.SCRIPT, "10.0.0.9")
    )
    decision = decide(server, asked, LATER)
    assert decision.reply in (Reply.REFUSED, Reply.LOCAL)
    assert (decision.server.state is ProvisionState.DEPLOY_FAILED) is not reboots
    assert ("rebooted during install" in decision.server.last_error) is not reboots


def test_go_is_repeated_for_the_same_boot_only() -> None:
    server = at("deploy/complete")
    again = heard(server, Signal.INSTALL_STARTED)
    assert (again.reply, again.server) == (Reply.GO, server)


def test_go_names_its_disk_once_and_no_other_afterwards() -> None:
    """I18: the Debian installer asks before it knows its disks, and once more when it has chosen."""
    early = heard(at("deploy/started"), Signal.INSTALL_STARTED, disk="")
    assert early.reply is Reply.GO
    named = heard(early.server, Signal.INSTALL_STARTED, disk="sda")
    assert (named.reply, named.outcome) == (Reply.GO, Outcome.CHANGED)
    assert named.server.run is not None
    assert named.server.run.go is not None
    assert named.server.run.go.disk == "sda"
    assert heard(named.server, Signal.INSTALL_STARTED, disk="sda").outcome is Outcome.NOOP
    assert heard(named.server, Signal.INSTALL_STARTED, disk="sdb").reply is Reply.REFUSED


def test_go_needs_a_boot_id() -> None:
    assert heard(at("deploy/started"), Signal.INSTALL_STARTED, boot_id="").reply is Reply.REFUSED


@pytest.mark.parametrize("name", ["deploy/script", "rebuild/script", "deploy/on"])
def test_serving_the_script_is_the_go_of_an_installer_that_cannot_ask(name: str) -> None:
    """I3."""
    before = at(name).with_run(asks_go=False, power_on_intended=True)
    decision = decide(before, Fetched(Fetch.SCRIPT, "192.0.2.7"), LATER)
    run = decision.server.run
    assert run is not None
    assert run.go is not None
    assert (decision.reply, decision.outcome) == (Reply.SERVE, Outcome.CHANGED)
    assert (run.go.boot_id, run.go.address, run.serves) == ("", "", 1)
    assert position(decision.server) == f"{name.partition('/')[0]}/complete"
    assert decision.server.generation == before.generation + 1
    assert not boot_window_open(decision.server)
    assert answer_window_open(decision.server)
    # Its word that it is complete is enough, whatever boot says so; but a second script means that it came back.
    assert heard(decision.server, Signal.INSTALL_COMPLETE, boot_id="esxi-1").reply is Reply.OK
    again = decide(decision.server, Fetched(Fetch.SCRIPT), LATER)
    assert (again.reply, again.server.state) == (Reply.LOCAL, ProvisionState.DEPLOY_FAILED)
    reboots = decision.server.with_run(reboots=True)
    kept = decide(reboots, Fetched(Fetch.SCRIPT), LATER)
    assert (kept.reply, kept.server) == (Reply.LOCAL, reboots)


def test_no_more_than_three_boot_scripts_per_netboot() -> None:
    server = at("deploy/script")
    replies = []
    for _ in range(5):
        decision = decide(server, Fetched(Fetch.SCRIPT), LATER)
        server = decision.server
        replies.append(decision.reply)
    assert replies == [Reply.SERVE] * 3 + [Reply.LOCAL] * 2
    again = decide(at("deploy/script"), RESULTS["overdue"](at("deploy/script")), MUCH_LATER).server
    assert again.run is not None
    assert again.run.serves == 0


def test_early_first_boot_is_remembered_and_the_flip_is_never_skipped() -> None:
    complete = at("deploy/complete")
    early = heard(complete, Signal.FIRST_BOOT).server
    flip = heard(early, Signal.INSTALL_COMPLETE)
    assert position(flip.server) == "deploy/flip"
    assert flip.action == EnsureBootDevice(BootDevice.DISK, persistent=True)
    done = decide(flip.server, result(flip.server, wrote=True), LATER)
    assert position(done.server) == "deploy/proof"


def test_go_before_we_know_that_the_power_is_on() -> None:
    """Rule 2 of the lifecycle: early news settles netboot; the late power read-back is a recorded no-op."""
    server = at("deploy/on")
    late = result(server, wrote=True)
    gone = heard(server, Signal.INSTALL_STARTED)
    assert (gone.reply, position(gone.server)) == (Reply.GO, "deploy/complete")
    assert decide(gone.server, late, LATER).outcome is Outcome.NOOP


@pytest.mark.parametrize(
    ("proof", "walked"),
    [
        (Proof.SSH, ["flip", "first boot", "proof"]),
        (Proof.FIRST_BOOT, ["flip", "first boot"]),
        (Proof.NONE, ["flip"]),
    ],
)
def test_the_proof_that_the_profile_asks_for(proof: Proof, walked: list[str]) -> None:
    """I14."""
    names = [position(s) for s in live("deploy", at("available"), proof)]
    assert names[-1] == "active"
    assert names[7 - 1 : -1] == [f"deploy/{name}" for name in walked]


def test_a_doubled_install_complete_hears_ok() -> None:
    for name in ("deploy/flip", "deploy/first boot", "deploy/proof"):
        decision = heard(at(name), Signal.INSTALL_COMPLETE)
        assert (decision.outcome, decision.reply) == (Outcome.NOOP, Reply.OK)


@pytest.mark.parametrize("name", ["deploy/on", "deploy/off", "release/off", "deploy/closing"])
def test_the_flap_guard(name: str) -> None:
    server = at(name)
    assert server.run is not None
    server = server.with_run(power_writes=4)
    assert server.run is not None
    decision = decide(server, Intended(server.run.number, server.run.step, server.fence), LATER)
    assert decision.server.run is None
    assert "BM109" in decision.server.last_error
    hourly = replace(at(name), power_writes=(NOW,) * 12)
    assert "an hour" in decide(hourly, RESULTS["intended"](hourly), LATER).server.last_error
    later = decide(hourly, RESULTS["intended"](hourly), NOW + timedelta(hours=2))
    assert later.outcome in (Outcome.CHANGED, Outcome.NOOP)


def test_transient_failures_back_off_and_end_at_the_deadline_with_their_reason() -> None:
    server, now = at("deploy/off"), NOW
    waits = []
    while server.run is not None and server.run.deadline is not None and now < server.run.deadline:
        failed = Failed(server.run.number, server.run.step, server.fence, "BM101 no answer", transient=True)
        server = decide(server, failed, now).server
        assert server.run is not None
        assert server.run.retry_at is not None
        waits.append((server.run.retry_at - now).total_seconds())
        now = server.run.retry_at
    assert all(0.25 <= wait <= 20 for wait in waits)
    assert len(waits) > 8
    ended = decide(server, RESULTS["overdue"](server), now).server
    assert (ended.state, ended.last_error) == (ProvisionState.DEPLOY_FAILED, "BM101 no answer")


def test_an_open_breaker_stretches_the_deadline_but_not_for_ever() -> None:
    """I27."""
    server, now = at("deploy/off"), NOW
    first = server.run.deadline if server.run else None
    assert first is not None
    for _ in range(100):
        if server.run is None:
            break
        failed = Failed(
            server.run.number,
            server.run.step,
            server.fence,
            "BM101 breaker open",
            transient=True,
            retry_after_s=60,
            pauses=True,
        )
        server = decide(server, failed, now).server
        assert server.run is not None
        now = server.run.retry_at or now
        server = decide(server, RESULTS["overdue"](server), now).server
    assert server.state is ProvisionState.DEPLOY_FAILED
    assert first + timedelta(seconds=600) < now <= first + timedelta(seconds=1000)


def test_every_failed_state_carries_a_reason_and_every_abort_ends_there() -> None:
    """I15."""
    for name, server in positions().items():
        for events in (RESULTS, NEWS):
            for event in events.values():
                after = decide(server, event(server), MUCH_LATER).server
                if after.state is not server.state and after.state in ("deploy failed", "error", "enroll"):
                    assert after.last_error, name


def test_a_missed_call_back_names_the_last_sign_of_life() -> None:
    server = heard(at("deploy/complete"), Signal.PROGRESS, stage="packages", message="412 of 900").server
    ended = decide(server, RESULTS["overdue"](server), MUCH_LATER).server
    assert "BM401" in ended.last_error
    assert "packages 412 of 900" in ended.last_error


def test_the_selector_that_found_no_disk_has_its_code() -> None:
    decision = heard(
        at("deploy/started"), Signal.INSTALL_FAILED, stage="disk", message="BM402 two disks match"
    )
    assert decision.server.last_error == "BM402 the installer failed: disk: two disks match"


def test_a_failed_rebuild_after_go_has_nothing_deployed() -> None:
    server = replace(at("active"), deployed=4)
    lives = {position(s): s for s in live("rebuild", server)}
    assert decide(lives["rebuild/on"], Asked(Verb.ABORT), LATER).server.deployed == 4
    failed = heard(lives["rebuild/complete"], Signal.INSTALL_FAILED, stage="packages").server
    assert failed.deployed == 0


def test_settings_are_frozen_into_the_run() -> None:
    asked = replace(DEPLOY, budgets=Budgets(install_s=7), proof=Proof.NONE, flip=BootDevice.NONE)
    run = decide(at("available"), asked, NOW).server.run
    assert run is not None
    assert (run.budgets.install_s, run.proof, run.flip) == (7, Proof.NONE, BootDevice.NONE)


def test_generations_and_runs_only_grow() -> None:
    """I10."""
    seen = list(live("deploy", at("available")))
    assert all(a.generation < b.generation for a, b in pairwise(seen))
    assert {s.runs for s in seen} == {at("available").runs + 1}
