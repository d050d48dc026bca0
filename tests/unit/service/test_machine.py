"""What a machine says of itself: placeholders of boards that were never given a number name nobody."""

from __future__ import annotations

import pytest

from baremetal.service.boot.machine import Machine, machine_serial, machine_uuid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
    ],
)
def test_a_uuid_that_many_boards_have_is_none(text: str) -> None:
    assert machine_uuid(text) == ""
    machine = Machine.by_name(f"pxelinux.cfg/{text}", "", "http://b", http=False) if text else None
    assert machine is None or machine.uuid == ""


@pytest.mark.parametrize(
    "text",
    ["", " ", "To Be Filled By O.E.M.", "Default string", "System Serial Number", "Not Specified", "N/A", "None",
     "0", "00000000", "0123456789", "123456789", "xxxxxxxx", "..............", "-"],
)  # fmt: skip
def test_a_serial_number_that_many_boards_have_is_none(text: str) -> None:
    assert machine_serial(text) == ""


@pytest.mark.parametrize("text", ["CZ3012ABCD", "VMware-42 1a 5c 8a", "S0", "1234567", "0000001", "NA12"])
def test_a_serial_number_stays_as_it_is(text: str) -> None:
    assert machine_serial(f" {text} ") == text


def test_a_uuid_stays_as_it_is_in_lower_case() -> None:
    assert machine_uuid("B8945908-D6A6-41A9-8E5D-C5A1D5C0F00D") == "b8945908-d6a6-41a9-8e5d-c5a1d5c0f00d"
