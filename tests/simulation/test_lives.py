"""Five hundred lives with faults break no promise (P1 to P3); planted bugs are caught; a seed replays identically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baremetal.lifecycle.workflows import WORKFLOWS
from tests.simulation.broken import Broken
from tests.simulation.faults import DISKLESS, KNOBS
from tests.simulation.lives import Lives, Tally, quiet
from tests.simulation.planted import OF_STORAGE, PLANTED
from tests.simulation.world import Menu, World, frozen_templates

SEEDS = 500
SEEDS_FOR_A_PLANTED_BUG = 300


@pytest.fixture
def templates(tmp_path: Path) -> Iterator[Menu]:
    with quiet():
        yield frozen_templates(tmp_path)


@pytest.mark.timeout(600)
def test_no_life_breaks_a_promise(templates: Menu) -> None:
    total, broken = Tally(), []
    lives = Lives(templates, diskless=0.125)
    for seed in range(SEEDS):
        try:
            total.add(lives.live(seed))
        except Broken as error:
            broken.append(f"./dev sim --seeds 1 --seed {seed} --diskless 0.125: {error}")
    lives.close()
    assert broken == []
    assert total.lives == SEEDS
    assert total.fired["lockout_after"] == 0, "an account was locked (P10)"
    assert total.fired["wrong password"] > 0
    idle = [knob for knob in KNOBS if not total.fired[knob] and knob != "lockout_after"]
    assert idle == [], "a knob that never fires tests nothing"
    ends = {"available", "deploy failed", "error", "active", "enroll", "manageable", "clean failed"}
    assert set(total.ends) <= ends | {"inspect failed", "rescue", "rescue failed", "unrescue failed"}
    verbs = {
        position.split("/")[0] for edge in total.edges for position in edge.split(" -> ") if "/" in position
    }
    assert verbs == {flow.name for flow in WORKFLOWS.values() if flow.steps}, "a workflow that nobody lived"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(templates: Menu, plant: Callable[[World], None]) -> None:
    lives = Lives(templates, plant, diskless=1.0 if plant in OF_STORAGE else DISKLESS)
    found = _first_broken(lives, SEEDS_FOR_A_PLANTED_BUG)
    assert found.startswith(f"{PLANTED[plant]}: "), f"{plant.__name__}: {found or 'went unnoticed'}"


def _first_broken(lives: Lives, seeds: int) -> str:
    try:
        for seed in range(seeds):
            lives.live(seed)
    except Broken as error:
        return str(error)
    finally:
        lives.close()
    return ""


@pytest.mark.parametrize("diskless", [0.0, 1.0])
def test_a_seed_replays_identically(templates: Menu, diskless: float) -> None:
    for seed in (3, 17):
        first, second = (Lives(templates, diskless=diskless).live(seed) for _ in range(2))
        assert (first.edges, first.fired, first.ends) == (second.edges, second.fired, second.ends)
