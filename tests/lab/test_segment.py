"""Machines on a network segment of their own: our DHCP, the firmware's own ways, our boot answers.

Needs root, for the namespace and its interfaces.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from baremetal.cli.demo import cache_folder
from baremetal.errors import LabError
from baremetal.lab.rack import available
from baremetal.lab.tiny.build import build
from baremetal.netboot import pxelinux
from baremetal.ramsystem.architecture import Architecture
from baremetal.service.advice.paths import ways
from tests.lab.segment_run import WAYS, Seen
from tests.programs import unpacked

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BY_IPXE = (
    "boot script served to 10.77.0.",
    "kernel tiny/vmlinuz fetched by 10.77.0.",
    "initrd tiny/initrd.img fetched by 10.77.0.",
    "go: run 2 may write to vda",
)


def run(folder: Path, way: str) -> Seen:
    """Live one way to boot in a namespace of its own; return what was seen of its run."""
    architecture = WAYS[way].architecture
    there, reason = available(WAYS[way].boot_mode, architecture)
    if not there:
        pytest.skip(reason)
    lacking = [name for name in ("dnsmasq", "unshare", "ip") if shutil.which(name) is None]
    if os.geteuid() or lacking:
        pytest.skip(f"needs root{', '.join(['', *lacking])}")
    # now: the namespace has no way out
    for package, path in WAYS[way].loaders.values():
        unpacked(package, path)
    build(cache_folder())
    if architecture is not Architecture.X86_64:
        try:
            build(cache_folder(), architecture)
        except LabError as error:
            pytest.skip(str(error))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.lab.segment_run", str(folder), way],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Seen(**json.loads(done.stdout))


def assert_in_order(words: Sequence[str], notes: Sequence[str]) -> None:
    rest = iter(notes)
    for word in words:
        assert any(word in note for note in rest), "\n".join(
            (word, "is not there, or not in its place:", *notes)
        )


def test_bios_ipxe_from_our_dhcp_to_a_proven_system(tmp_path: Path) -> None:
    notes = run(tmp_path, "bios-ipxe").notes
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


def test_bios_pxelinux_is_answered_at_its_first_name_and_starts_the_installer(tmp_path: Path) -> None:
    """S3-3, S3-5: the order of its names is seen on the timeline, and its first name is answered already."""
    seen = run(tmp_path, "bios-pxelinux")
    notes = seen.notes
    assert_in_order(
        (
            "TFTP: pxelinux.0 fetched by 10.77.0.1",
            "TFTP: ldlinux.c32 fetched",
            f"TFTP: {pxelinux.lookups(seen.mac, uuid=seen.uuid)[0]} fetched",
            "/tiny/vmlinuz fetched",
            # Asked for, not delivered: pxelinux stops the NIC with its last acknowledgement, and when that is lost
            # the end of the last transfer is learnt seconds later, from the installer's kernel at the same address.
            "initrd tiny/initrd.img fetched",
            "go: run 2 may write to vda",
        ),
        notes,
    )
    assert sum("TFTP: pxelinux.cfg/" in note for note in notes) == 1, "\n".join(notes)


def test_uefi_shim_and_grub_to_a_proven_system(tmp_path: Path) -> None:
    """S3-1, S3-2 in the form of Debian's signed build, which never asks per MAC: one file sources ours."""
    notes = run(tmp_path, "uefi-grub").notes
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


@pytest.mark.long
@pytest.mark.parametrize(("way", "loader"), [("uefi-ipxe", "ipxe.efi"), ("uefi-snponly", "snponly.efi")])
def test_uefi_firmware_fetches_ipxe_by_tftp(way: str, loader: str, tmp_path: Path) -> None:
    """S4-1: the firmware's own PXE is given iPXE; iPXE, asking DHCP again, is given its script and not itself."""
    notes = run(tmp_path, way).notes
    assert_in_order((f"TFTP: {loader} fetched by 10.77.0.1", *BY_IPXE), notes)
    assert sum("TFTP: " in note for note in notes) == 1, "nothing but iPXE itself comes by TFTP"


@pytest.mark.long
def test_uefi_http_boot_fetches_ipxe(tmp_path: Path) -> None:
    """Firmware that says `HTTPClient` believes our answer, and nothing comes by TFTP."""
    notes = run(tmp_path, "uefi-http").notes
    assert_in_order(("HTTP: loaders/ipxe.efi fetched by 10.77.0.1", *BY_IPXE), notes)
    assert not any("TFTP: " in note for note in notes)


@pytest.mark.long
def test_bios_lpxelinux_goes_on_by_http(tmp_path: Path) -> None:
    """Option 210 makes it ask us by HTTP for everything but itself."""
    notes = run(tmp_path, "bios-lpxelinux").notes
    assert_in_order(
        (
            "TFTP: lpxelinux.0 fetched by 10.77.0.1",
            "HTTP: ldlinux.c32 fetched by 10.77.0.1",
            "kernel tiny/vmlinuz fetched",
            "initrd tiny/initrd.img fetched",
            "go: run 2 may write to vda",
        ),
        notes,
    )
    assert any("boot script served to 10.77.0.1" in note for note in notes)
    assert sum("TFTP: " in note for note in notes) == 1, "nothing but lpxelinux itself comes by TFTP"


@pytest.mark.long
def test_bios_ipxe_beside_a_router(tmp_path: Path) -> None:
    """Pain 8: the router gives the address and knows nothing of us; our proxy tells what to boot."""
    notes = run(tmp_path, "bios-proxy").notes
    assert_in_order(("DHCP: was told what to boot", "DHCP: was answered by another server"), notes)
    assert_in_order(BY_IPXE, notes)
    assert not any("DHCP: was given an address" in note for note in notes), "not by us"


@pytest.mark.long
def test_uefi_firmware_beside_a_router(tmp_path: Path) -> None:
    """Pains 8, 9: UEFI asks us at port 4011 once it has the router's address, is given iPXE, and iPXE its script."""
    notes = run(tmp_path, "uefi-proxy").notes
    assert_in_order(("DHCP: was told what to boot", "TFTP: ipxe.efi fetched by 10.77.0.2"), notes)
    assert_in_order(BY_IPXE, notes)
    assert not any("DHCP: was given an address" in note for note in notes), "not by us"


@pytest.mark.long
def test_uefi_grub_of_upstream_asks_by_its_mac_first(tmp_path: Path) -> None:
    """S3-2: its own list, from the first name on, which is answered already; it opens a file, then reads it."""
    notes = run(tmp_path, "uefi-grub-upstream").notes
    names = [found[1] for note in notes if (found := re.match(r"TFTP: (\S+) ", note))]
    own = names[1]  # looked at, and read later
    assert re.fullmatch(r"grub\.cfg-01-52-54-00(-[0-9a-f]{2}){3}", own)
    lists = [f"x86_64-efi/{name}.lst" for name in ("command", "fs", "crypto", "terminal")]
    media = [f"media/_r1.2/tiny/{name}" for name in ("vmlinuz", "initrd.img")]
    assert names == ["grubx64.efi", own, *lists, own, *media]
    assert any("go: run 2 may write to vda" in note for note in notes)


@pytest.mark.long
def test_uefi_secure_boot_to_a_proven_system(tmp_path: Path) -> None:
    """Firmware that takes nothing unsigned: shim, GRUB and kernel, from the network and then from the disk."""
    seen = run(tmp_path, "uefi-secure-boot")
    assert_in_order(
        (
            "TFTP: shimx64.efi fetched by 10.77.0.1",
            "TFTP: grubx64.efi fetched",
            "TFTP: grub/grub.cfg fetched",
            "TFTP: grub/mac/52:54:00",
            "TFTP: media/_r1.2/tiny/vmlinuz fetched",
            "go: run 2 may write to vda",
            "the installed system calls home",
            "answered with this run's id",
        ),
        seen.notes,
    )
    assert "secureboot: Secure boot enabled" in seen.console, "said by the installer's kernel"
    assert "Kernel is locked down from EFI Secure Boot" in seen.console


@pytest.mark.long
def test_uefi_arm64_shim_and_grub_to_a_proven_system(tmp_path: Path) -> None:
    """S4-1: the firmware says that it is arm64 (option 93: 11) and gets its own loader; then as `explain` foretells."""
    seen = run(tmp_path, "uefi-arm64")
    (way,) = (way for way in ways(seen.mac, "", seen.uuid, "arm64") if "Debian's GRUB" in way.title)
    media = [f"media/_r1.2/tiny-arm64/{name}" for name in ("vmlinuz", "initrd.img")]
    asked = [found[1] for note in seen.notes if (found := re.match(r"TFTP: (\S+) ", note))]
    assert list(dict.fromkeys(asked)) == [*way.names, *media]
    assert_in_order(
        (
            "DHCP: asked for an address",
            "TFTP: bootaa64.efi fetched by 10.77.0.1",
            "boot script served to 10.77.0.1",
            *(f"TFTP: {name} fetched by 10.77.0.1" for name in media),
            "go: run 2 may write to vda",
            "boot device disk, persistent: done",
            "the installed system calls home",
            "answered with this run's id",
        ),
        seen.notes,
    )
