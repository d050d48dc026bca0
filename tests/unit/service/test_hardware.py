"""Selecting servers by what an inspection found (S2-6)."""

from __future__ import annotations

from typing import Any

import pytest

from baremetal.errors import Invalid
from baremetal.service.servers.hardware import FIELDS, Hardware

SEEN: dict[str, Any] = {
    "cpus": 32,
    "cpu": "AMD EPYC 7302P 16-Core Processor",
    "arch": "x86_64",
    "memory_mib": 64_018,  # 64 GiB of modules, as Linux counts them
    "disks": [{"name": "sda", "size": 480_103_981_056}, {"name": "nvme0n1", "size": 1_000_204_886_016}],
    "nics": [{"name": "eno1", "speed_mbps": 1000}, {"name": "ens1", "speed_mbps": 25_000}],
    "vendor": "Supermicro",
    "product": "AS-1014S-WTRT",
}


def fits(text: str, seen: dict[str, Any] = SEEN) -> bool:
    test = Hardware.parse(text).test
    return test is None or test(seen) is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ram>=64G and disk>=1T", True),
        ("ram>64G", False),
        ("ram<=64G", True),
        ("ram=64GiB", True),
        ("ram>=65536M", True),
        ("disk>=1TiB", False),
        ("storage>=1.4T", True),
        ("disks=2 and nics = 2", True),
        ("speed>=10000", True),
        ("cpus<32", False),
        ("cpu~epyc", True),
        ("vendor=supermicro", True),
        ('vendor!="Dell Inc."', True),
        ("not vendor~dell", True),
        ("ram>=1T or disk>=1T", True),
        ("ram>=1T or disk>=1T and cpus>=64", False),
        ("(ram>=1T or disk>=1T) and cpus>=16", True),
        ("NOT (cpus>=16 AND arch=x86_64)", False),
        ("", True),
    ],
)
def test_an_expression_fits_or_not(text: str, expected: bool) -> None:
    assert fits(text) is expected


@pytest.mark.parametrize(
    ("shown_mib", "sold_gib"),
    [
        (963, 1),
        (1_963, 2),
        (7_822, 8),
        (15_900, 16),
        (31_990, 32),
        (96_450, 96),
        (386_600, 384),
        (1_031_900, 1024),
    ],
)
def test_memory_is_what_the_modules_hold(shown_mib: int, sold_gib: int) -> None:
    assert fits(f"ram={sold_gib}G", {"memory_mib": shown_mib})


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.base])
def test_what_nobody_has_seen_is_not_enough(name: str) -> None:
    unit = "G" if FIELDS[name].base > 1 else ""
    for text in (f"{name}>=1{unit}", f"not {name}>=1{unit}", f"not ({name}>=1{unit} or cpus<0)"):
        assert fits(text, {}) is False


def test_not_of_what_nobody_has_seen_is_no_yes() -> None:
    bare = {"cpus": 4, "disks": [], "nics": []}
    for text in ("not disk>=1T", "not disk<1T", "not vendor~supermicro", "vendor!=supermicro"):
        assert fits(text, bare) is False
    assert fits("not vendor~supermicro or cpus=4", bare) is True
    assert fits("disks=0 and not nics>0", bare) is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ram>=", "at 'ram>='"),
        ("ram>=64G and", "at the end"),
        ("ram>=64G disk>=1T", "'and' or 'or' is expected at 'disk>=1T'"),
        ("(ram>=64G", "a closing bracket is expected at the end"),
        ("ram>=64G)", "'and' or 'or'"),
        ("memory>=64G", "no word 'memory'"),
        ("ram>=lots", "is no size"),
        ("ram>=64", "of what?"),
        ("disk<480", "of what?"),
        ("cpus>=4G", "is no number"),
        ("cpu>=4", "compares numbers"),
        ("ram~64", "is a number"),
        ("__class__=1", "no word"),
        ("not " * 40 + "ram>=1", "deep"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        Hardware.parse(text)
    assert said in str(caught.value)
