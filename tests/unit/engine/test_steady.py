from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from baremetal.engine.steady import SteadyClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clocks:
    """A wall clock that anybody may set, and a monotonic one that nobody can."""

    def __init__(self) -> None:
        self.wall, self.counter = NOON, 1000.0

    def read_wall(self) -> datetime:
        return self.wall

    def read_counter(self) -> float:
        return self.counter


def test_time_passes_as_the_monotonic_clock_counts() -> None:
    clocks = Clocks()
    now = SteadyClock(clocks.read_wall, clocks.read_counter)
    assert now() == NOON
    clocks.counter += 90.5
    assert now() == NOON + timedelta(seconds=90.5)
    assert now().tzinfo is UTC


def test_setting_the_wall_clock_makes_nothing_early_and_nothing_late() -> None:
    clocks = Clocks()
    now = SteadyClock(clocks.read_wall, clocks.read_counter)
    for jump in (timedelta(days=30), timedelta(days=-60)):
        clocks.wall += jump
        assert now() == NOON


class Notes:
    """What outlives a process, as the store keeps it."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.busy, self.last_at = False, NOON

    def setting(self, name: str) -> str | None:
        return self.kept.get(name)

    def set_setting(self, name: str, value: str) -> None:
        self.kept[name] = value

    def has_open_runs(self) -> bool:
        return self.busy

    def last_history_at(self) -> datetime | None:
        return self.last_at


def resume(notes: Notes, clocks: Clocks, boot: str = "boot-1") -> SteadyClock:
    return SteadyClock.resume(notes, clocks.read_wall, clocks.read_counter, boot)


def test_a_new_process_believes_the_wall_when_nothing_is_under_way() -> None:
    clocks, notes = Clocks(), Notes()
    resume(notes, clocks)
    for jump in (timedelta(days=1), timedelta(days=-9)):
        clocks.wall += jump
        assert resume(notes, clocks)() == clocks.wall


@pytest.mark.parametrize("jump", [timedelta(days=30), timedelta(days=-30)])
def test_a_new_process_goes_on_counting_while_runs_are_open(jump: timedelta) -> None:
    clocks, notes = Clocks(), Notes()
    resume(notes, clocks)
    notes.busy = True
    for _ in range(3):
        clocks.counter += 60
        clocks.wall += jump
        now = resume(notes, clocks)
    assert now() == NOON + timedelta(seconds=180)


def test_after_another_boot_of_the_host_time_does_not_go_back() -> None:
    clocks, notes = Clocks(), Notes()
    resume(notes, clocks)
    notes.busy = True
    notes.last_at = NOON + timedelta(minutes=5)
    clocks.counter, clocks.wall = 3.0, datetime(1970, 1, 1, tzinfo=UTC)
    assert resume(notes, clocks, "boot-2")() == notes.last_at
    clocks.wall = NOON + timedelta(hours=1)
    clocks.counter = 4.0
    assert resume(notes, clocks, "boot-3")() == clocks.wall, "and otherwise the wall is all there is"


def test_a_kernel_that_names_no_boot_is_no_boot_at_all() -> None:
    clocks, notes = Clocks(), Notes()
    resume(notes, clocks, "")
    notes.busy = True
    clocks.counter, clocks.wall = 5.0, NOON + timedelta(hours=1)
    assert resume(notes, clocks, "")() == clocks.wall


def test_the_real_clocks() -> None:
    assert abs(SteadyClock()() - datetime.now(UTC)) < timedelta(seconds=1)
