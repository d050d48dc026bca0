"""The packet-level virtual server: simulated firmware and installer, in real time, behind a BMC that speaks real IPMI.

For hosts where QEMU cannot be had. What it sends and fetches is real; what it installs is not.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import uuid4

from baremetal.sim.bmc import Identity, SimulatedBmc
from baremetal.sim.chassis import BootOrder
from baremetal.sim.clock import VirtualClock
from baremetal.sim.knobs import Knobs
from baremetal.sim.machine import SimulatedMachine, Timing
from baremetal.sim.network import HttpNetwork
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import User

_STEP_S = 0.02
_TIMING = Timing(post_s=4.0, kernel_s=2.0, install_s=6.0, boot_s=4.0)
USER = "admin"


class Paced:
    """A simulated machine whose time is the wall clock's, or `speed` times that.

    The BMC's buttons only leave a wish, so they never block.
    """

    def __init__(self, machine: SimulatedMachine, clock: VirtualClock, speed: float = 1.0) -> None:
        self._machine = machine
        self._clock = clock
        self.speed = speed
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wished_on: bool | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=15)

    @property
    def is_on(self) -> bool:
        return self._machine.is_on if self._wished_on is None else self._wished_on

    def power_on(self, boot: BootOrder) -> None:
        self._wish(True, lambda: self._machine.power_on(boot))

    def power_off(self) -> None:
        self._wish(False, self._machine.power_off)

    def soft_off(self) -> None:
        self._wishes.put(self._machine.soft_off)

    def reset(self, boot: BootOrder) -> None:
        self._wish(True, lambda: self._machine.reset(boot))

    def _wish(self, on: bool, call: Callable[[], None]) -> None:
        self._wished_on = on
        self._wishes.put(call)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(_STEP_S):
            try:
                while True:
                    self._wishes.get_nowait()()
            except queue.Empty:
                self._wished_on = None
            now = time.monotonic()
            self._clock.pass_time((now - last) * self.speed)
            last = now


class SimulatedServer:
    """One such server with its BMC on a free port. Use as a context."""

    def __init__(self, boot_url: str, password: str, timing: Timing = _TIMING, *, speed: float = 1.0) -> None:
        rng = random.Random()
        tail = ":".join(f"{rng.randrange(256):02x}" for _ in range(3))
        self.name = "r1"
        self.mac = f"52:54:00:{tail}"
        self.uuid = str(uuid4())
        self.serial = f"SIM-{tail.replace(':', '').upper()}"
        self.password = password
        self.bmc_port = 0
        clock = VirtualClock()
        self.machine = machine = SimulatedMachine(
            self.name, (self.mac,), clock, HttpNetwork(), boot_url, rng, timing=timing
        )
        self.chassis = Paced(machine, clock, speed)
        self._bmc = SimulatedBmc(
            self.chassis,
            time.monotonic,
            Knobs(),
            rng,
            users=(User(USER, password),),
            identity=Identity(name=self.serial),
        )
        self._farm = BmcFarm()
        machine.firmware = lambda: self._farm.call(self._bmc.take_boot)

    @property
    def bmc_url(self) -> str:
        return f"ipmi://{USER}@127.0.0.1:{self.bmc_port}"

    def __enter__(self) -> Self:
        self._farm.__enter__()
        self.bmc_port = self._farm.add(self._bmc)
        self.chassis.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.chassis.stop()
        self._farm.__exit__(kind, error, trace)
