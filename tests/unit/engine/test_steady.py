from __future__ import annotations

from datetime import UTC, datetime, timedelta

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


def test_a_new_process_believes_the_wall() -> None:
    clocks = Clocks()
    SteadyClock(clocks.read_wall, clocks.read_counter)
    clocks.wall += timedelta(days=1)
    assert SteadyClock(clocks.read_wall, clocks.read_counter)() == NOON + timedelta(days=1)


def test_the_real_clocks() -> None:
    assert abs(SteadyClock()() - datetime.now(UTC)) < timedelta(seconds=1)
