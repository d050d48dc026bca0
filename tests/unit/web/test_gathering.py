"""Questions that come while one batch is at work go with the next one; each hears its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from baremetal.web import gathering
from baremetal.web.gathering import MOST, Gathering


class Slow:
    """Doubles numbers; waits for `gate` each time, and keeps what it was given."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.begun.release()
        assert self.gate.acquire(timeout=10)
        if 13 in numbers:
            raise ZeroDivisionError("thirteen")
        return [2 * number for number in numbers]


def gathered(test: Callable[[Gathering[int, int], Slow], Any]) -> Slow:
    async def run() -> Slow:
        slow = Slow()
        with ThreadPoolExecutor(4) as executor:
            await test(Gathering(executor, slow), slow)
        return slow

    return asyncio.run(run())


async def at_work(slow: Slow, batches: int) -> None:
    """Wait until so many more batches were begun."""
    for _ in range(batches):
        assert await asyncio.to_thread(slow.begun.acquire, timeout=10)


def test_what_comes_at_once_goes_together() -> None:
    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        asked = [asyncio.create_task(asking.ask(number)) for number in range(5)]
        slow.gate.release()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]

    assert gathered(test).batches == [[0, 1, 2, 3, 4]]


def test_what_comes_meanwhile_goes_together() -> None:
    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        asked = [asyncio.create_task(asking.ask(0))]
        await at_work(slow, 1)
        asked += [asyncio.create_task(asking.ask(number)) for number in range(1, 5)]
        await asyncio.sleep(0)
        slow.gate.release(2)
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]

    assert gathered(test).batches == [[0], [1, 2, 3, 4]]


def test_machines_that_were_answered_together_meet_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOMENT_S", 0.5)  # of a busy machine

    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        slow.gate.release(9)

        async def machine(after_s: float) -> None:
            await asking.ask(1)
            await asyncio.sleep(after_s)
            await asking.ask(2)

        await asyncio.gather(*(machine(0.0002 * number) for number in range(5)))

    assert gathered(test).batches == [[1] * 5, [2] * 5]


def test_one_machine_never_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOMENT_S", 60.0)

    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        slow.gate.release(3)
        async with asyncio.timeout(20):
            for number in range(3):
                assert await asking.ask(number) == 2 * number

    assert gathered(test).batches == [[0], [1], [2]]


def test_a_batch_has_a_bound() -> None:
    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        asked = [asyncio.create_task(asking.ask(number)) for number in range(100, 101 + 2 * MOST)]
        slow.gate.release(9)
        assert await asyncio.gather(*asked) == [2 * number for number in range(100, 101 + 2 * MOST)]

    assert [len(batch) for batch in gathered(test).batches] == [MOST, MOST, 1]


def test_trouble_is_raised_for_its_batch_and_not_for_the_next() -> None:
    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        first = asyncio.create_task(asking.ask(1))
        await at_work(slow, 1)
        second = [asyncio.create_task(asking.ask(number)) for number in (12, 13)]
        await asyncio.sleep(0)
        slow.gate.release(3)
        assert await first == 2
        for task in second:
            with pytest.raises(ZeroDivisionError):
                await task
        assert await asking.ask(14) == 28

    gathered(test)


def test_who_hangs_up_hears_nothing_and_the_others_do() -> None:
    async def test(asking: Gathering[int, int], slow: Slow) -> None:
        asked = [asyncio.create_task(asking.ask(number)) for number in range(3)]
        await at_work(slow, 1)
        asked[1].cancel()
        slow.gate.release(2)
        assert await asked[0] == 0
        assert await asked[2] == 4
        assert asked[1].cancelled()

    gathered(test)


def test_an_executor_that_is_shut_down_is_said_so_each_time() -> None:
    class Closed(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise RuntimeError("cannot schedule new futures after shutdown")

    async def test() -> None:
        asking: Gathering[int, int] = Gathering(Closed(), lambda numbers: numbers)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shutdown"):
                await asking.ask(1)

    asyncio.run(test())
