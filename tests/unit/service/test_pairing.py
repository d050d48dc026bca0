"""Pairs of firmware and loader that cannot work are told before the power goes on (pain 3)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baremetal.netboot.profile import Family
from baremetal.netboot.program import Program, look_at, read_program
from baremetal.service.deploys.pairing import Pairing
from baremetal.service.media.loaders import PROGRAMS, Loaders
from baremetal.service.media.loaders import Program as Packaged
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.programs import unpacked
from tests.unit.service.test_dhcp import SEGMENT
from tests.unit.store.fleet import NOW, new

X64, ARM64 = 0x8664, 0xAA64
BIOS_PROGRAM = b"\xea\x05\x00\xc0\x07" + b"iPXE -- Open Source Network Boot Firmware"
FAR = replace(
    SEGMENT,
    name="rack2",
    network=ipaddress.IPv4Network("10.8.0.0/24"),
    loader_bios="pxelinux.0",
    loader_uefi="shimx64.efi",
)


def efi(machine: int = X64, *, signed: bool = False, text: bytes = b"") -> bytes:
    """Make the head of an EFI program as compilers and sbsign write it (PE32+, sixteen data directories)."""
    head = bytearray(b"MZ" + b"\0" * 0x3E)
    struct.pack_into("<I", head, 0x3C, 0x80)
    head += b"\0" * (0x80 - len(head))
    head += b"PE\0\0" + struct.pack("<HHIIIHH", machine, 0, 0, 0, 0, 240, 0x206)
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<I", optional, 108, 16)
    struct.pack_into("<II", optional, 112 + 8 * 4, 0x4000 if signed else 0, 0x600 if signed else 0)
    return bytes(head + optional) + text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "undionly.kpxe").write_bytes(BIOS_PROGRAM)
    (tmp_path / "ipxe.efi").write_bytes(efi(text=b"iPXE"))
    (tmp_path / "pxelinux.0").write_bytes(b"\xea\x05\x00PXELINUX")
    (tmp_path / "ldlinux.c32").write_bytes(b"\x7fELF")
    (tmp_path / "shimx64.efi").write_bytes(efi(signed=True))
    (tmp_path / "grubx64.efi").write_bytes(efi(signed=True))
    return tmp_path


def problem(folder: Path, family: Family = Family.KICKSTART, *segments: Any, **facts: Any) -> str:
    nothing = {name: Packaged(None, known.package) for name, known in PROGRAMS.items()}
    with_store = Store.open("sqlite://", Secrets.ephemeral())
    try:
        (record,) = with_store.add_servers([new(1, **facts)], NOW)
        found = Pairing(segments or (SEGMENT, FAR), Loaders(folder, nothing)).problem(record, family)
        assert found is None or (found.code, found.server) == ("BM307", "r1")
        return "" if found is None else str(found)
    finally:
        with_store.close()


HERE: dict[str, Any]
THERE: dict[str, Any]
HERE, THERE = {"ip": "10.9.0.50/24"}, {"ip": "10.8.0.50/24"}


@pytest.mark.parametrize("mode", ["bios", "uefi"])
@pytest.mark.parametrize("ip", [HERE, THERE, {}])
def test_good_pairs_are_let_pass(folder: Path, mode: str, ip: dict[str, Any]) -> None:
    assert problem(folder, boot_mode=mode, **ip) == ""


@pytest.mark.parametrize(
    ("file", "data", "facts", "words"),
    [
        ("undionly.kpxe", efi(), {}, "undionly.kpxe is a program for x86-64 UEFI, and the server has BIOS"),
        (
            "ipxe.efi",
            BIOS_PROGRAM,
            {"boot_mode": "uefi"},
            "ipxe.efi is a program for BIOS, and the server has x86-64",
        ),
        (
            "ipxe.efi",
            efi(ARM64),
            {"boot_mode": "uefi"},
            "a program for arm64 UEFI, and the server has x86-64 UEFI",
        ),
        (
            "ipxe-arm64.efi",
            efi(X64),
            {"arch": "arm64"},
            "a program for x86-64 UEFI, and the server has arm64 UEFI",
        ),
    ],
)
def test_a_program_for_other_firmware(
    folder: Path, file: str, data: bytes, facts: dict[str, Any], words: str
) -> None:
    (folder / file).write_bytes(data)
    assert words in problem(folder, **HERE, **facts)


@pytest.mark.parametrize(
    ("grub", "words"),
    [
        (efi(), "shimx64.efi is signed and starts grubx64.efi, which is not: Secure Boot refuses it"),
        (efi(ARM64, signed=True), "shimx64.efi starts grubx64.efi, which is for arm64 UEFI"),
        (None, "shimx64.efi starts grubx64.efi, which is not there"),
    ],
)
def test_what_shim_would_start(folder: Path, grub: bytes | None, words: str) -> None:
    (folder / "grubx64.efi").unlink()
    if grub is not None:
        (folder / "grubx64.efi").write_bytes(grub)
    assert words in problem(folder, boot_mode="uefi", **THERE)
    (folder / "shimx64.efi").write_bytes(efi())
    unsigned = problem(folder, boot_mode="uefi", **THERE)
    assert ("Secure Boot" in unsigned, bool(unsigned)) == (False, grub != efi())


@pytest.mark.parametrize("family", [Family.ESXI, Family.WINDOWS])
@pytest.mark.parametrize(("mode", "loader"), [("bios", "pxelinux.0"), ("uefi", "shimx64.efi")])
def test_what_only_ipxe_starts(folder: Path, family: Family, mode: str, loader: str) -> None:
    assert problem(folder, family, boot_mode=mode, **HERE) == ""
    words = f"only iPXE starts {family}, and its firmware is given {loader}"
    assert words in problem(folder, family, boot_mode=mode, **THERE)


def test_what_is_not_known_is_no_problem(folder: Path) -> None:
    (folder / "ipxe.efi").unlink()
    assert problem(folder, boot_mode="uefi", **HERE) == "", (
        "its NIC may bring iPXE; doctor says that it is missing"
    )
    assert problem(folder, Family.ESXI, boot_mode="uefi", ip="10.99.0.1") == "", "nobody's segment"
    (folder / "ipxe.efi").write_bytes(efi(ARM64))
    assert problem(folder, boot_mode="uefi") == "", "two segments, and no address that says which"
    assert problem(folder, Family.KICKSTART, SEGMENT, boot_mode="uefi") != "", "the only segment"
    (folder / "pxelinux.0").write_bytes(b"\xea\x05\x00 packed")
    assert problem(folder, Family.ESXI, boot_mode="bios", **THERE) == "", "iPXE by another name, perhaps"


@pytest.mark.parametrize("data", [b"", b"M", b"MZ", b"MZ" + b"\xff" * 62, efi()[:0x90], efi()[:0x100]])
def test_programs_that_are_cut_off_or_none_are_read_without_trouble(data: bytes, tmp_path: Path) -> None:
    assert read_program(data).signed is False
    assert look_at(tmp_path / "absent") is None
    file = tmp_path / "file"
    file.write_bytes(data)
    assert look_at(file) == read_program(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "file", "program"),
    [
        ("ipxe", "usr/lib/ipxe/undionly.kpxe", Program("bios", False, None)),
        ("ipxe", "usr/lib/ipxe/snponly.efi", Program("x86_64", False, True)),
        ("pxelinux", "usr/lib/PXELINUX/pxelinux.0", Program("bios", False, False)),
        ("shim-signed", "usr/lib/shim/shimx64.efi.signed", Program("x86_64", True, False)),
        ("shim-signed", "usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi", Program("x86_64", False, False)),
        (
            "grub-efi-amd64-signed",
            "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
            Program("x86_64", True, False),
        ),
    ],
)
def test_debians_own_programs(package: str, file: str, program: Program) -> None:
    assert look_at(Path(unpacked(package, file).path)) == program


def test_a_program_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "ipxe.efi"
    file.write_bytes(efi(text=b"iPXE"))
    assert look_at(file) == Program("x86_64", False, True)
    file.write_bytes(efi(ARM64, signed=True))
    assert look_at(file) == Program("arm64", True, False)
