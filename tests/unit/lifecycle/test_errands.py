"""Wipes, inspections and rescues: the exceptions that `tests/golden/transitions.md` lists, one test each."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from baremetal.lifecycle.actions import CheckLogin, EnsureBootDevice, EnsurePower
from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Decision, Outcome, Reply
from baremetal.lifecycle.events import Asked, Did, Event, Fetched, Heard, MaintenanceChanged
from baremetal.lifecycle.model import (
    BootDevice,
    Fetch,
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
from baremetal.lifecycle.windows import answer_window_open, boot_window_open, tokens_live
from baremetal.lifecycle.workflows import allowed_verbs

S = ProvisionState
DISKS = ("sda SER1", "sdb SER2")
WIPES = ("provide --wipe", "release --wipe")


def at(name: str) -> Server:
    return positions()[name]


def go(server: Server, disks: tuple[str, ...] = DISKS, boot_id: str = BOOT) -> Decision:
    assert server.run is not None
    event = Heard(Signal.WIPE_STARTED, server.run.number, boot_id, "10.0.0.5", disks=disks)
    return decide(server, event, LATER)


@pytest.mark.parametrize("verb", WIPES)
def test_go_of_a_wipe_records_every_disk_before_anything_is_written(verb: str) -> None:
    """I18."""
    decision = go(at(f"{verb}/started"))
    run = decision.server.run
    assert (decision.reply, position(decision.server)) == (Reply.GO, f"{verb}/complete")
    assert run is not None
    assert run.go is not None
    assert run.go.disks == DISKS
    assert "sda SER1, sdb SER2" in decision.note
    assert go(decision.server) == replace(go(decision.server), outcome=Outcome.NOOP, reply=Reply.GO)


@pytest.mark.parametrize("verb", WIPES)
@pytest.mark.parametrize("disks", [(), ("sda SER1",), (*DISKS, "sdc SER3")])
def test_a_wipe_names_its_disks_once_and_no_others_afterwards(verb: str, disks: tuple[str, ...]) -> None:
    """I18: less is another set too, for it would leave a disk unwiped that go was given for."""
    assert go(at(f"{verb}/started"), disks).reply is (Reply.GO if disks else Reply.REFUSED)
    assert go(go(at(f"{verb}/started")).server, disks).reply is Reply.REFUSED


@pytest.mark.parametrize("verb", WIPES)
@pytest.mark.parametrize("event", ["go", "script"])
def test_a_second_boot_after_go_fails_the_wipe(verb: str, event: str) -> None:
    """I3."""
    server = at(f"{verb}/complete")
    asked = go(server, boot_id="boot-2") if event == "go" else decide(server, Fetched(Fetch.SCRIPT), LATER)
    assert asked.reply in (Reply.REFUSED, Reply.LOCAL)
    assert (asked.server.state, asked.server.run) == (S.CLEAN_FAILED, None)
    assert "BM405 rebooted during wipe" in asked.server.last_error


@pytest.mark.parametrize("verb", WIPES)
def test_abort_in_the_middle_of_a_wipe_switches_off_and_leaves_clean_failed(verb: str) -> None:
    server = at(f"{verb}/complete")
    assert server.run is not None
    closing = decide(server, Asked(Verb.ABORT), LATER)
    assert closing.action == EnsurePower(PowerState.OFF)
    assert not tokens_live(closing.server, server.run.number)
    assert not answer_window_open(closing.server)
    ended = decide(closing.server, RESULTS["did"](closing.server), LATER).server
    assert (ended.state, ended.run) == (S.CLEAN_FAILED, None)
    assert ended.last_error


def test_release_with_wipe_fails_to_error_before_it_wipes_and_is_released_once_it_does() -> None:
    active = replace(at("active"), deployed=4, found_on=True)
    lives = {position(server): server for server in live("release --wipe", active)}
    early = decide(
        lives["release --wipe/clear"], RESULTS["failed for good"](lives["release --wipe/clear"]), LATER
    )
    assert (early.server.state, early.server.deployed) == (S.ERROR, 4)
    late = decide(
        lives["release --wipe/started"], RESULTS["overdue"](lives["release --wipe/started"]), MUCH_LATER
    )
    assert (late.server.state, late.server.deployed, late.server.found_on) == (S.CLEAN_FAILED, 0, False)
    assert (lives["available"].deployed, lives["available"].found_on) == (0, False)


def test_without_wiping_provide_and_release_do_what_they_did() -> None:
    assert decide(at("manageable"), Asked(Verb.PROVIDE), LATER).server.state is S.AVAILABLE
    on_disk = Server("r1", S.ACTIVE, runs=1, deployed=1)
    assert [position(server) for server in live("release", on_disk)] == [
        "release/off",
        "release/clear",
        "available",
    ]


@pytest.mark.parametrize(
    "verb", [verb for verb in Verb if verb not in (Verb.PROVIDE, Verb.RELEASE, Verb.ABORT)]
)
def test_no_other_verb_wipes(verb: Verb) -> None:
    for state in ("manageable", "available", "active", "enroll", "clean failed"):
        assert decide(at(state), Asked(verb, wipe=True), LATER).outcome is Outcome.REFUSED


def test_a_failed_wipe_is_not_offered_as_it_is_without_a_word() -> None:
    decision = decide(at("clean failed"), Asked(Verb.PROVIDE), LATER)
    assert decision.outcome is Outcome.REFUSED
    assert "without --wipe" in decision.note
    assert set(allowed_verbs(S.CLEAN_FAILED)) == {"manage", "provide"}


@pytest.mark.parametrize("verb", ["inspect", "provide --wipe"])
def test_a_server_found_on_is_neither_inspected_nor_wiped_without_force(verb: str) -> None:
    server = replace(at("manageable"), found_on=True)
    asked = VERBS[verb](server)
    assert isinstance(asked, Asked)
    assert decide(server, asked, LATER).outcome is Outcome.REFUSED
    assert position(decide(server, replace(asked, force=True), LATER).server) == f"{verb}/off"


def test_an_inspection_leaves_the_server_as_it_was_and_off() -> None:
    server = replace(at("manageable"), found_on=True)
    complete = at("inspect/complete")
    told = decide(complete, NEWS["inspect-complete"](complete), LATER)
    assert told.action == EnsurePower(PowerState.OFF)
    assert not boot_window_open(told.server)
    forced = decide(server, Asked(Verb.INSPECT, force=True), NOW).server
    assert forced.found_on, "it has been switched off, but what it carries was not released"


@pytest.mark.parametrize("name", ["inspect/complete", "rescue/started"])
def test_what_touches_no_disk_may_boot_again_within_the_limit(name: str) -> None:
    server = at(name)
    replies = []
    for _ in range(4):
        decision = decide(server, Fetched(Fetch.SCRIPT), LATER)
        server = decision.server
        replies.append(decision.reply)
    assert replies == [Reply.SERVE, Reply.SERVE, Reply.LOCAL, Reply.LOCAL], "one script was served before"
    assert server.run is not None


def test_a_rescue_keeps_what_is_deployed_and_unrescue_goes_back_to_it() -> None:
    active = replace(at("active"), deployed=7)
    *_, rescued = live("rescue", active)
    assert (rescued.state, rescued.deployed, rescued.run) == (S.RESCUE, 7, None)
    walk = list(live("unrescue", rescued))
    assert [owed(server) for server in walk[:-1]] == [
        EnsurePower(PowerState.OFF),
        EnsureBootDevice(BootDevice.DISK, persistent=True),
        EnsurePower(PowerState.ON),
        CheckLogin(),
    ]
    assert (walk[-1].state, walk[-1].deployed) == (S.ACTIVE, 7)


@pytest.mark.parametrize("proof", [Proof.NONE, Proof.FIRST_BOOT])
def test_without_a_login_to_prove_it_unrescue_ends_when_power_is_on(proof: Proof) -> None:
    """A system calls home once in its life, so there is no second first boot to wait for."""
    *_, last, active = live("unrescue", at("rescue"), proof)
    assert position(last) == "unrescue/boot"
    assert active.state is S.ACTIVE


def test_power_on_for_unrescue_needs_no_fresh_boot_flags_and_opens_no_window() -> None:
    server = at("unrescue/boot")
    assert server.run is not None
    intended = decide(server, RESULTS["intended"](server), MUCH_LATER.replace(year=2025))
    assert position(intended.server) == "unrescue/boot"
    assert not boot_window_open(intended.server)
    did = Did(server.run.number, server.run.step, server.fence, wrote=False, power=PowerState.ON)
    assert position(decide(server, did, LATER).server) == "unrescue/proof"


def test_in_maintenance_go_for_a_wipe_waits() -> None:
    """I17."""
    server = decide(at("release --wipe/started"), MaintenanceChanged(True), LATER).server
    assert go(server).reply is Reply.WAIT


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("inspect/complete", Signal.INSTALL_STARTED),
        ("rescue/started", Signal.WIPE_STARTED),
        ("provide --wipe/started", Signal.INSTALL_STARTED),
        ("deploy/started", Signal.WIPE_STARTED),
    ],
)
def test_go_is_for_what_the_run_is_for(name: str, signal: Signal) -> None:
    """I3: no inspection and no rescue is ever given go, no install go for a wipe."""
    server = at(name)
    assert server.run is not None
    asked: Event = Heard(signal, server.run.number, BOOT, disk="vda", disks=DISKS)
    decision = decide(server, asked, LATER)
    assert (decision.reply, decision.server) == (Reply.REFUSED, server)


def test_a_wipe_has_a_day_and_its_own_words() -> None:
    server = at("provide --wipe/complete")
    assert server.run is not None
    assert server.run.deadline is not None
    assert (server.run.deadline - LATER).total_seconds() == 24 * 3600
    failed = decide(
        server, Heard(Signal.WIPE_FAILED, server.run.number, stage="vda", message="I/O error"), LATER
    )
    assert failed.server.last_error == "BM404 the wipe failed: vda: I/O error"
