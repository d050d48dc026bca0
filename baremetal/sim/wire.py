"""A faulty network between a client and a simulated BMC: packets that vanish, double, come late or swapped.

Owns what happens to one direction of a BMC's traffic. Draws from the BMC's generator, so a seed replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from baremetal.sim.bmc import SimulatedBmc

HOLD_S = 0.05
"""How long a packet that is to be overtaken waits for one that overtakes it."""

Deliver = Callable[[bytes, Any], None]
Later = Callable[[float, Callable[[], None]], object]


class Wire:
    """One direction. `later(seconds, run)` is the event loop's `call_later`."""

    def __init__(self, bmc: SimulatedBmc, deliver: Deliver, later: Later) -> None:
        self._bmc = bmc
        self._deliver = deliver
        self._later = later
        self._held: tuple[bytes, Any] | None = None

    def send(self, packet: bytes, address: Any, after_s: float = 0.0) -> None:
        """Carry a packet as the knobs of this moment allow."""
        knobs = self._bmc.knobs
        if self._bmc.chance("loss"):
            return
        copies = 2 if self._bmc.chance("dup") else 1
        for _ in range(copies):
            wait_s = after_s
            if knobs.delay:
                self._bmc.fired["delay"] += 1
                wait_s += self._bmc.rng.random() * knobs.delay
            if self._held is None and self._bmc.chance("reorder"):
                self._held = (packet, address)
                self._later(wait_s + HOLD_S, self._release)
            elif wait_s:
                self._later(wait_s, lambda: self._pass(packet, address))
            else:
                self._pass(packet, address)

    def _pass(self, packet: bytes, address: Any) -> None:
        self._deliver(packet, address)
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._deliver(*held)
