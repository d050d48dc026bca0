"""Asking again without having booted again, and waiting without end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from baremetal.netboot.lookup import By, Loader, Question
from baremetal.service.boot.machine import Machine
from baremetal.service.boot.repeats import Repeats, Waits

AT = datetime(2026, 1, 1, tzinfo=UTC)
MAC = "52:54:00:00:00:01"
GRUB = Machine.by_name("grub.cfg-01-52-54-00-00-00-01", "10.0.0.5", "http://x", http=False)


def later(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def test_a_name_says_who_asks_what() -> None:
    assert Machine(
        mac=MAC, address="10.0.0.5", base="http://x", loader=Loader.GRUB, asked=Question(By.MAC, MAC)
    ) == (GRUB)
    assert Machine.by_name("vmlinuz", "10.0.0.5", "http://x", http=False) is None
    for name, goes_on in (("default", False), ("again-525400000001", False), ("0A000005", True)):
        machine = Machine.by_name(f"pxelinux.cfg/{name}", "10.0.0.5", "http://x", http=True)
        assert machine is not None
        assert (machine.loader, machine.goes_on) == (Loader.LPXELINUX, goes_on)


def test_the_same_machine_the_same_name_the_same_run_within_seconds() -> None:
    """I3: only then is a second request no second boot."""
    assert GRUB is not None
    repeats = Repeats()
    repeats.keep("id", GRUB, 3, "text", AT)
    assert repeats.again("id", GRUB, 3, later(9)) == "text"
    assert repeats.again("id", GRUB, 3, later(11)) is None
    assert repeats.again("id", GRUB, 3, later(-1)) is None
    assert repeats.again("id", GRUB, 4, later(1)) is None
    assert repeats.again("other", GRUB, 3, later(1)) is None
    elsewhere = Machine.by_name("grub.cfg-01-52-54-00-00-00-01", "10.0.0.6", "http://x", http=False)
    assert elsewhere is not None
    assert repeats.again("id", elsewhere, 3, later(1)) is None


def test_waiting_ends_after_two_minutes_without_a_pause() -> None:
    """I2: wait and retry, then local boot."""
    waits = Waits()
    enough = [waits.is_enough(MAC, later(5 * number)) for number in range(30)]
    assert enough == [False] * 24 + [True] * 6
    assert not waits.is_enough("52:54:00:00:00:02", later(150)), "another machine has only begun"
    assert not waits.is_enough(MAC, later(300)), "and so has this one, after a pause"
