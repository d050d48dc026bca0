"""Machines on a network segment of their own: our DHCP, the firmware's own ways, our boot answers.

Needs root, for the namespace and its interfaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from baremetal.lab.rack import available
from tests.lab.segment_run import WAYS
from tests.programs import unpacked

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def run(folder: Path, way: str) -> list[str]:
    """Live one way to boot in a namespace of its own; return the notes of its run."""
    there, reason = available(WAYS[way].boot_mode)
    if not there:
        pytest.skip(reason)
    lacking = [name for name in ("dnsmasq", "unshare", "ip") if shutil.which(name) is None]
    if os.geteuid() or lacking:
        pytest.skip(f"needs root{', '.join(['', *lacking])}")
    for package, path in WAYS[way].loaders.values():
        unpacked(package, path)  # now: the namespace has no way out
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.lab.segment_run", str(folder), way],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    notes: list[str] = json.loads(done.stdout)
    return notes


def assert_in_order(words: Sequence[str], notes: Sequence[str]) -> None:
    rest = iter(notes)
    for word in words:
        assert any(word in note for note in rest), (word, notes)


def test_bios_ipxe_from_our_dhcp_to_a_proven_system(tmp_path: Path) -> None:
    notes = run(tmp_path, "bios-ipxe")
    assert_in_order(
        (
            "power on: done",
            "boot script served to 10.77.0.1",
            "ks.cfg fetched by 10.77.0.1",
            "go: run 2 may write to vda",
            "reports that it is complete",
            "boot device disk, persistent: done",
            "the installed system calls home",
            "answered with this run's id",
        ),
        notes,
    )
    assert_in_order(
        ("DHCP: asked for an address", "DHCP: was offered an address", "DHCP: was given an address"), notes
    )


def test_bios_pxelinux_asks_by_its_uuid_first_and_starts_the_installer(tmp_path: Path) -> None:
    """S3-3, S3-5: the order of its names is seen on the timeline, and its first name is answered already."""
    notes = run(tmp_path, "bios-pxelinux")
    assert_in_order(
        (
            "TFTP: pxelinux.0 fetched by 10.77.0.1",
            "TFTP: ldlinux.c32 fetched",
            "TFTP: pxelinux.cfg/",
            "/tiny/vmlinuz fetched",
            "/tiny/initrd.img fetched",
            "go: run 2 may write to vda",
        ),
        notes,
    )
    assert not any("TFTP: pxelinux.cfg/01-" in note for note in notes), notes


def test_uefi_shim_and_grub_to_a_proven_system(tmp_path: Path) -> None:
    """S3-1, S3-2 in the form of Debian's signed build, which never asks per MAC: one file sources ours."""
    notes = run(tmp_path, "uefi-grub")
    assert_in_order(
        (
            "TFTP: shimx64.efi fetched by 10.77.0.1",
            "TFTP: grubx64.efi fetched",
            "TFTP: grub/grub.cfg fetched",
            "TFTP: grub/mac/52:54:00",
            "TFTP: media/_r1.2/tiny/vmlinuz fetched",
            "go: run 2 may write to vda",
            "boot device disk, persistent: done",
            "the installed system calls home",
            "answered with this run's id",
        ),
        notes,
    )
    assert any("revocations_sku.efi" in note and "need not be there" in note for note in notes)
