"""Several systems on one server's volumes: which is booted, what a run replaces, what a failure leaves (S0-5, S0-8)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.decision import Outcome
from baremetal.lifecycle.events import Asked, SystemChosen
from baremetal.lifecycle.model import BootTarget, ProvisionState, Server, Verb
from baremetal.lifecycle.table import LATER, RESULTS, SEVERAL, live, position, positions
from baremetal.lifecycle.windows import booted_run, boots_volume

S = ProvisionState
ACTIVE = replace(SEVERAL, state=S.ACTIVE)


def _end(name: str, begin: Server = ACTIVE, *, system: str) -> Server:
    *_, last = live(name, begin, system=system)
    return last


def _at(step: str, begin: Server = ACTIVE, *, system: str) -> Server:
    return next(one for one in live("rebuild by clone", begin, system=system) if position(one).endswith(step))


def test_the_one_that_is_chosen_is_booted_from_now_on() -> None:
    assert booted_run(ACTIVE) == 1
    chosen = decide(ACTIVE, SystemChosen("other", by="ann"), LATER)
    assert (chosen.outcome, chosen.action) == (Outcome.CHANGED, None)
    assert (chosen.server.deployed, chosen.server.state) == (2, S.ACTIVE)
    assert "boots other from now on, by ann" in chosen.note
    assert boots_volume(chosen.server)
    assert booted_run(chosen.server) == 2
    assert decide(chosen.server, SystemChosen("other"), LATER).outcome is Outcome.NOOP
    assert decide(chosen.server, SystemChosen("main"), LATER).server.deployed == 1


def test_a_system_that_is_not_there_is_refused_and_those_that_are_get_named() -> None:
    refused = decide(ACTIVE, SystemChosen("windows"), LATER)
    assert refused.outcome is Outcome.REFUSED
    assert "no such system; it has main, other" in refused.note
    on_disk = Server("r1", S.ACTIVE, runs=1, deployed=1)
    assert "it has none on volumes" in decide(on_disk, SystemChosen("main"), LATER).note


@pytest.mark.parametrize("name", [name for name in positions() if name not in ("active", "deploy failed")])
def test_nothing_is_chosen_while_a_run_is_under_way_or_nothing_was_deployed(name: str) -> None:
    server = replace(positions()[name], systems=SEVERAL.systems)
    assert decide(server, SystemChosen("other"), LATER).outcome is Outcome.REFUSED


def test_a_further_system_leaves_those_that_are_there() -> None:
    third = _end("rebuild by clone", system="third")
    assert third.systems == (("main", 1), ("other", 2), ("third", 3))
    assert (third.volumes, third.deployed) == ((1, 2, 3), 3)


def test_a_system_of_the_same_name_replaces_that_one_alone() -> None:
    again = _end("rebuild to iscsi", system="main")
    assert again.systems == (("other", 2), ("main", 3))
    assert (again.volumes, again.deployed) == ((2, 3), 3)


def test_onto_the_disk_and_released_it_has_none() -> None:
    for ended in (_end("rebuild", system="main"), _end("release", system="main")):
        assert (ended.systems, ended.volumes, ended.target) == ((), (), BootTarget.DISK)


@pytest.mark.parametrize(
    ("step", "system"), [("off", "main"), ("volume", "main"), ("on", "third"), ("script", "third")]
)
def test_what_fails_leaves_the_system_that_it_did_not_touch(step: str, system: str) -> None:
    """Before its target is touched nothing is lost, and with a system of another name nothing ever is."""
    failed = decide(
        _at(step, system=system), RESULTS["failed for good"](_at(step, system=system)), LATER
    ).server
    if step == "script":  # an await, which fails by its deadline or by an abort
        failed = decide(_at(step, system=system), Asked(Verb.ABORT), LATER).server
        failed = decide(failed, RESULTS["did"](failed), LATER).server
    assert failed.state is S.DEPLOY_FAILED
    assert (failed.deployed, failed.systems) == (1, ACTIVE.systems)
    assert boots_volume(failed)
    assert booted_run(failed) == 1


def test_what_fails_after_its_target_was_touched_has_lost_its_system_and_no_other() -> None:
    serving = _at("on", system="main")
    failed = decide(serving, RESULTS["failed for good"](serving), LATER).server
    assert (failed.deployed, failed.systems, failed.target) == (0, (("other", 2),), BootTarget.DISK)
    assert not boots_volume(failed)
    back = decide(failed, SystemChosen("other"), LATER).server
    assert boots_volume(back)
    assert (booted_run(back), back.state) == (2, S.DEPLOY_FAILED)
    # the volume that never ran goes with the next system that does; the other one stays
    begin = replace(failed, volumes=(1, 2, 3))
    ended = _end("deploy by clone", begin, system="main")
    assert (ended.systems, ended.volumes) == ((("other", 2), ("main", 4)), (2, 4))


def test_within_a_run_it_boots_its_own_volume_once_that_is_served() -> None:
    assert booted_run(_at("volume", system="third")) == 1
    assert booted_run(_at("on", system="third")) == 3
