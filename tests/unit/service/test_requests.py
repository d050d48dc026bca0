"""S3-5: TFTP requests on the timeline of the server whose machine asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from baremetal.service.boot.requests import FileRequest, FileRequests
from baremetal.store.records import ServerRecord

R1, R2 = cast(Any, "r1"), cast(Any, "r2")


class Timeline:
    """Notes what it is told, at a time that the test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)
        self.noted: list[tuple[Any, str]] = []
        self.requests = FileRequests(self.note, lambda: self.at)

    def note(self, record: ServerRecord, request: FileRequest) -> None:
        self.noted.append((record, request.name))


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


def asked(name: str, address: str = "10.0.0.5") -> FileRequest:
    return FileRequest(address, name, served=True, bytes=42)


def test_what_was_asked_before_anybody_knew_whose_machine_it_is(timeline: Timeline) -> None:
    for name in ("pxelinux.0", "ldlinux.c32"):
        timeline.requests.saw(asked(name))
    timeline.requests.saw(asked("grubx64.efi", "10.0.0.6"))
    assert timeline.noted == []
    timeline.requests.belongs("10.0.0.5", R1)
    assert timeline.noted == [(R1, "pxelinux.0"), (R1, "ldlinux.c32")]
    timeline.requests.saw(asked("chain.c32"))
    assert timeline.noted[2:] == [(R1, "chain.c32")]


def test_a_lease_wanders(timeline: Timeline) -> None:
    timeline.requests.belongs("10.0.0.5", R1)
    timeline.at += timedelta(minutes=16)
    timeline.requests.saw(asked("pxelinux.0"))
    assert timeline.noted == []
    timeline.requests.belongs("10.0.0.5", R2)
    assert timeline.noted == [(R2, "pxelinux.0")]


def test_strangers_cannot_fill_the_memory(timeline: Timeline) -> None:
    for number in range(3000):
        timeline.requests.saw(asked("x", f"10.0.{number // 256}.{number % 256}"))
    for number in range(200):
        timeline.requests.saw(asked(f"x{number}"))
    timeline.requests.belongs("10.0.0.5", R1)
    assert len(timeline.noted) == 64


def test_the_words() -> None:
    assert asked("a").note == "TFTP: a fetched by 10.0.0.5 (42 bytes)"
    gone = FileRequest("10.0.0.5", "a", served=False, is_harmless=True)
    assert gone.note == "TFTP: a asked for by 10.0.0.5, which need not be there"
    cut = FileRequest("10.0.0.5", "a", served=False, reason="not found")
    looked = FileRequest("10.0.0.5", "a", served=False, only_looked=True)
    assert looked.note == "TFTP: a looked at by 10.0.0.5, and is there"
    assert cut.note == "TFTP: a not served to 10.0.0.5: not found"
