"""The faulty network: each knob by itself, with a schedule that the test runs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.knobs import HEALTHY, Knobs
from baremetal.sim.wire import HOLD_S, Wire


class Network:
    """One wire, what came out of it, and what is still to happen."""

    def __init__(self, knobs: Knobs = HEALTHY) -> None:
        self.bmc = SimulatedBmc(DummyChassis(), lambda: 0.0, knobs, random.Random(2))
        self.got: list[bytes] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.wire = Wire(self.bmc, lambda packet, _: self.got.append(packet), self.later)

    def later(self, after_s: float, run: Callable[[], None]) -> None:
        self.due.append((after_s, run))

    def settle(self) -> None:
        """Let everything that is scheduled happen, soonest first."""
        while self.due:
            self.due.sort(key=lambda each: each[0])
            self.due.pop(0)[1]()


def test_a_healthy_wire_passes_packets_at_once_and_in_order() -> None:
    network = Network()
    for packet in (b"1", b"2", b"3"):
        network.wire.send(packet, None)
    assert network.got == [b"1", b"2", b"3"]
    assert not network.bmc.fired


@pytest.mark.parametrize(
    ("knobs", "got"),
    [(Knobs(loss=1), []), (Knobs(dup=1), [b"1", b"1"]), (Knobs(reorder=1), [b"1"]), (Knobs(delay=2), [b"1"])],
)
def test_what_becomes_of_one_packet(knobs: Knobs, got: list[bytes]) -> None:
    network = Network(knobs)
    network.wire.send(b"1", None)
    network.settle()
    assert network.got == got
    assert sum(network.bmc.fired.values()) == 1


def test_a_reordered_packet_comes_after_the_next_one() -> None:
    network = Network(Knobs(reorder=1))
    network.wire.send(b"1", None)
    network.wire.send(b"2", None)
    assert network.got == [b"2", b"1"]
    network.settle()
    assert network.got == [b"2", b"1"]


def test_a_reordered_packet_without_a_next_one_comes_all_the_same() -> None:
    network = Network(Knobs(reorder=1))
    network.wire.send(b"1", None)
    assert [after_s for after_s, _ in network.due] == [HOLD_S]
    network.settle()
    assert network.got == [b"1"]


def test_a_delay_is_at_most_what_the_knob_says() -> None:
    network = Network(Knobs(delay=0.5))
    for _ in range(100):
        network.wire.send(b"1", None, after_s=1.0)
    assert all(1.0 <= after_s <= 1.5 for after_s, _ in network.due)


def test_loss_is_as_frequent_as_the_knob_says() -> None:
    network = Network(Knobs(loss=0.2))
    for _ in range(2000):
        network.wire.send(b"1", None)
    assert 1500 < len(network.got) < 1700
