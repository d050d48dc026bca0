"""Counting requests: a rack behind one router is served, a flood is not, and guessing is dear."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from baremetal.web.limits import Bucket, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_saves_up_to_its_burst() -> None:
    clock = Clock()
    bucket = Bucket(rate=2.0, burst=3.0, clock=clock)
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]
    assert bucket.take("b"), "every address has its own"
    clock.now += 1.0
    assert [bucket.take("a") for _ in range(3)] == [True, True, False]
    clock.now += 3600
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]


def test_asking_whether_there_is_one_takes_none() -> None:
    bucket = Bucket(rate=1.0, burst=1.0, clock=Clock())
    assert bucket.has("a")
    assert bucket.has("a")
    assert bucket.take("a")
    assert not bucket.has("a")


def app(status: int) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return answer


def ask(app: Any, address: str) -> int:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "client": (address, 1)}, None, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(("address", "last"), [("10.0.0.5", 429), ("127.0.0.1", 200), ("::1", 200)])
def test_a_flood_is_stopped_but_not_the_loopback(address: str, last: int) -> None:
    limited = RateLimit(app(200), Bucket(0.0, 3.0), Bucket(0.0, 3.0))
    assert [ask(limited, address) for _ in range(4)] == [200, 200, 200, last]


def test_failures_are_counted_for_everybody() -> None:
    limited = RateLimit(app(404), Bucket(0.0, 100.0), Bucket(0.0, 3.0))
    assert [ask(limited, "127.0.0.1") for _ in range(4)] == [404, 404, 404, 429]
    assert ask(limited, "10.0.0.5") == 404
