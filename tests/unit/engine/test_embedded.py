"""Ticks, on the real scheduler: they come again whatever happened, and never twice at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from baremetal.engine.embedded import Embedded, Tick
from baremetal.errors import Unavailable


@contextmanager
def ticking(call: Callable[[], object], every_s: float = 0.02) -> Iterator[Embedded]:
    ticks = Embedded([Tick("test", every_s, call)])
    ticks.start()
    try:
        yield ticks
    finally:
        ticks.stop()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("trouble", [Unavailable("the database does not answer"), ZeroDivisionError("a bug")])
def test_a_tick_that_fails_is_logged_and_comes_again(trouble: Exception) -> None:
    calls: list[float] = []

    def call() -> None:
        calls.append(time.monotonic())
        raise trouble

    with capture_logs() as logs, ticking(call):
        until(lambda: len(calls) >= 3)
    assert {entry["tick"] for entry in logs} == {"test"}
    expected = "tick failed" if isinstance(trouble, Unavailable) else "tick broke"
    assert logs[0]["event"] == expected
    assert logs[0].get("code") == (trouble.code if isinstance(trouble, Unavailable) else None)


def test_a_slow_tick_is_not_started_again_over_itself() -> None:
    running, most, calls = 0, 0, 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal running, most, calls
        with lock:
            running += 1
            calls += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1

    with ticking(call):
        until(lambda: calls >= 3)
    assert most == 1


def test_stop_waits_for_the_tick_under_way_and_is_idempotent() -> None:
    began, ended = threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        time.sleep(0.1)
        ended.set()

    with ticking(call) as ticks:
        assert began.wait(10)
        ticks.stop()
        assert ended.is_set()
        ticks.stop()


def test_stopping_what_never_started_is_harmless() -> None:
    Embedded([]).stop()
