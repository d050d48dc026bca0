"""Many short conversations through one child process: who answers well shares it, who does not is killed with it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baremetal.drivers import sim as board
from baremetal.drivers.base import BmcCredentials, BmcUrl, Deadlines, PowerState
from baremetal.drivers.registry import Round
from baremetal.errors import BmcError, BmcErrorKind
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.knobs import Knobs
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import User

pytestmark = pytest.mark.slow

ACCOUNT = BmcCredentials("admin", "right")
SHORT = Deadlines(connect_s=3.0, read_s=1.5, write_s=1.5)


@pytest.fixture
def farm() -> Iterator[BmcFarm]:
    with BmcFarm() as running:
        yield running


def bmc(on: bool = False, **knobs: Any) -> SimulatedBmc:
    return SimulatedBmc(
        DummyChassis(is_on=on),
        time.monotonic,
        Knobs(**knobs),
        random.Random(1),
        users=(User("admin", "right"),),
    )


def url(port: int) -> BmcUrl:
    return BmcUrl.parse(f"ipmi://127.0.0.1:{port}")


def read(opener: Round, port: int, account: BmcCredentials = ACCOUNT) -> PowerState:
    driver = opener.open(url(port), account)
    try:
        return driver.power()
    finally:
        driver.close()


def test_one_child_reads_them_all_and_leaves_no_session_behind(farm: BmcFarm) -> None:
    bmcs = [bmc(on=number % 2 == 0) for number in range(8)]
    ports = [farm.add(one) for one in bmcs]
    with Round(SHORT) as opener:
        pids = set()
        for number, port in enumerate(ports * 2):
            driver = opener.open(url(port), ACCOUNT)
            assert driver.power() is (PowerState.ON if number % 2 == 0 else PowerState.OFF)
            driver.close()
            driver.close()
            assert opener._child is not None
            pids.add(opener._child.pid)
        (pid,) = pids
    assert farm.call(lambda: [len(one.sessions) for one in bmcs]) == [0] * 8
    until = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.01)


def test_a_conversation_that_is_closed_is_over(farm: BmcFarm) -> None:
    ports = [farm.add(bmc()), farm.add(bmc(on=True))]
    with Round(SHORT) as opener:
        first = opener.open(url(ports[0]), ACCOUNT)
        first.close()
        second = opener.open(url(ports[1]), ACCOUNT)
        with pytest.raises(BmcError, match="over"):
            first.power()
        assert second.power() is PowerState.ON
        second.close()


@pytest.mark.parametrize(
    ("knobs", "password", "kind"),
    [
        ({}, "wrong", BmcErrorKind.AUTH),
        ({"loss": 1.0}, "right", BmcErrorKind.UNREACHABLE),
        ({"malformed": 1.0}, "right", BmcErrorKind.PROTOCOL),
        ({"reply_delay_s": 2.0}, "right", BmcErrorKind.DEADLINE),
    ],
    ids=["auth", "silent", "malformed", "slow"],
)
def test_trouble_with_one_is_nobody_elses(
    farm: BmcFarm, knobs: dict[str, Any], password: str, kind: BmcErrorKind
) -> None:
    good, bad = farm.add(bmc(on=True)), farm.add(bmc(**knobs))
    with Round(SHORT) as opener:
        assert read(opener, good) is PowerState.ON
        with pytest.raises(BmcError) as caught:
            read(opener, bad, BmcCredentials("admin", password))
        assert caught.value.kind in (kind, BmcErrorKind.DEADLINE)
        assert read(opener, good) is PowerState.ON


def test_other_schemes_need_no_child() -> None:
    board.plug(
        "round", SimulatedBmc(DummyChassis(is_on=True), time.monotonic, users=(User("admin", "right"),))
    )
    try:
        with Round() as opener:
            driver = opener.open(BmcUrl.parse("sim://round"), ACCOUNT)
            assert driver.power() is PowerState.ON
            driver.close()
            assert opener._child is None
    finally:
        board.unplug("round")
