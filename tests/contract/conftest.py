"""BMCs for the contract tests: behind real IPMI on loopback, in this process, and one of yours with `--bmc URL`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from baremetal.drivers.base import BmcCredentials, BmcDriver, BmcUrl, Deadlines
from baremetal.drivers.registry import open_conversation
from baremetal.drivers.sim import plug, unplug
from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.knobs import HEALTHY, Knobs
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import Privilege, User

PASSWORD = "right-horse-battery"
USERS = (User("admin", PASSWORD), User("watchman", PASSWORD, Privilege.OPERATOR))
SHORT = Deadlines(connect_s=6, read_s=1.5, write_s=1.5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bmc-power",
        action="store_true",
        default=False,
        help="allow the contract tests to switch the machine behind --bmc off and on and to set its boot device",
    )


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Rig:
    """One BMC under test and the way to it."""

    kind: str
    url: str
    bmc: SimulatedBmc
    chassis: DummyChassis

    def open(
        self,
        user: str = "admin",
        password: str = PASSWORD,
        options: str = "",
        deadlines: Deadlines | None = None,
    ) -> BmcDriver:
        url = BmcUrl.parse(f"{self.url}?{options}" if options else self.url)
        return open_conversation(url, BmcCredentials(user, password), deadlines or Deadlines())

    @property
    def requests(self) -> int:
        """How many requests the BMC has received, logins included."""
        return sum(self.bmc.requests.values())


MakeRig = Callable[..., Rig]


@pytest.fixture(params=["ipmi", "sim"])
def make_rig(request: pytest.FixtureRequest) -> Iterator[MakeRig]:
    """Build BMCs with the given knobs; the test runs once for each driver."""
    yield from _makers(request.param)


@pytest.fixture
def make_ipmi_rig() -> Iterator[MakeRig]:
    """Build BMCs that speak real IPMI on loopback."""
    yield from _makers("ipmi")


def _makers(kind: str) -> Iterator[MakeRig]:
    names: list[str] = []
    with BmcFarm() as farm:

        def make(*, on: bool = False, seed: int = 1, **knobs: Any) -> Rig:
            chassis = DummyChassis(is_on=on)
            clock = Clock()
            bmc = SimulatedBmc(
                chassis,
                time.monotonic if kind == "ipmi" else clock,
                Knobs(**knobs) if knobs else HEALTHY,
                random.Random(seed),
                users=USERS,
            )
            if kind == "ipmi":
                return Rig(kind, f"ipmi://127.0.0.1:{farm.add(bmc)}", bmc, chassis)
            names.append(f"bmc-{len(names)}")
            plug(names[-1], bmc, clock.sleep)
            return Rig(kind, f"sim://{names[-1]}", bmc, chassis)

        yield make
    for name in names:
        unplug(name)


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """One healthy BMC, machine off."""
    return make_rig()
