from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import Invalid
from baremetal.lifecycle.model import Disk
from baremetal.netboot.selector import parse_selector

SDA = Disk("sda", "SER-A", "naa.5000C500A1B2C3D4", 2 * 10**12, True)
SDB = Disk("sdb", "SER-B", "0x5000c500a1b2c3d5", 480 * 10**9, False)
NVME = Disk("nvme0n1", "NV-1", "eui.0025385b", 960 * 10**9, False)
BARE = Disk("vda", size=64 * 2**30)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("serial=SER-B", SDB),
        ("wwn=0x5000c500a1b2c3d4", SDA),
        ("wwn=naa.5000c500a1b2c3d5", SDB),
        ("path=/dev/nvme0n1", NVME),
        ("rotational=true", SDA),
        ("size>=1T", SDA),
        ("size<=500G,rotational=false", SDB),
        ("size>=500G,size<=1000G", NVME),
        ("size=64Gi", BARE),
    ],
)
def test_the_one_that_fits(selector: str, chosen: Disk) -> None:
    assert parse_selector(selector).choose([SDA, SDB, NVME, BARE]) == chosen


@pytest.mark.parametrize(
    ("selector", "disks"),
    [("auto", []), ("auto", [SDA, SDB]), ("serial=NO", [SDA]), ("rotational=false", [SDB, NVME, BARE])],
)
def test_none_or_two_refuse_and_say_what_was_seen(selector: str, disks: list[Disk]) -> None:
    with pytest.raises(Invalid) as caught:
        parse_selector(selector).choose(disks)
    assert caught.value.code == "BM402"
    assert caught.value.seen
    assert all(disk.name in caught.value.seen for disk in disks)


def test_auto_takes_the_only_disk() -> None:
    assert parse_selector("auto").choose([BARE]) == BARE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "first",
        "auto,size>=1G",
        "serial=",
        "size>1G",
        "size>=1X",
        "size>=-1",
        "a=b",
        "serial=a b",
        "path=vda",
    ],
)
def test_what_is_not_a_selector(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_selector(text)
    assert caught.value.variable == "disk"


@given(st.text(max_size=40))
def test_the_shell_form_is_words_only_and_stable(text: str) -> None:
    try:
        form = parse_selector(text).shell_form()
    except Invalid:
        return
    assert set(form) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:+-/=<>,@")
    assert parse_selector(form).shell_form() == form
