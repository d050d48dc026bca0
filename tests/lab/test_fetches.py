"""Every profile's boot script in real iPXE, with dummy files: what is fetched is what should be, in order, and starts.

This is what *fetch-checked* means in `baremetal profile list`. The dummy kernel is a few instructions in the form of
Linux; that it greets on the serial line proves that iPXE got to the end of the script.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from baremetal.lab.machine import QemuMachine
from baremetal.netboot.profile import Family
from tests.evidence import record
from tests.lab.guests import text_of, wait_until
from tests.lab.test_boot_scripts import Host
from tests.lab.test_boot_scripts import boot as boot  # a fixture
from tests.lab.test_boot_scripts import host as host  # a fixture
from tests.unit.netboot.shipped import files_of, shipped

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

GREETING = b"DUMMY KERNEL"
BEFORE = ["/boot.ipxe", "/ipxe"]


def dummy_kernel() -> bytes:
    """Make a bzImage that prints its greeting and stops (Linux boot protocol 2.03, Documentation/arch/x86/boot.rst)."""
    image = bytearray(1024 + 512)
    image[0x1F1] = 1  # one setup sector after the boot sector
    image[0x1FE:0x200] = b"\x55\xaa"
    # The entry in real mode, with the data segment at the image's begin: greet on the first serial port, then halt.
    code = bytes.fromhex("be8002 ac 84c0 7406 baf803 ee ebf5 f4 ebfd")
    image[0x200:0x202] = b"\xeb\x66"  # over the header
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x0203)
    image[0x211] = 0x01  # loaded high
    struct.pack_into("<I", image, 0x214, 0x100000)
    struct.pack_into("<I", image, 0x22C, 0x37FFFFFF)
    image[0x268 : 0x268 + len(code)] = code
    greeting = b"\r\n" + GREETING + b"\r\n\0"
    image[0x280 : 0x280 + len(greeting)] = greeting
    return bytes(image)


def expected(name: str) -> list[str]:
    """List what the boot script of a profile must fetch, from the profile's own data."""
    profile = shipped()[name]
    media, answer = f"/media/{name}", "/answer/sample-fetch-token"
    if profile.family is Family.ESXI:
        return [f"{media}/mboot.c32"]
    if profile.family is Family.WINDOWS:
        wanted = [profile.kernel, "boot/bcd", "boot/boot.sdi", profile.initrd]
        files = ["winpeshl.ini", "install.bat", "SetupComplete.cmd", "unattend.xml"]
        return [f"{media}/{path}" for path in wanted] + [f"{answer}/{file}" for file in files]
    return [f"{media}/{profile.kernel}", f"{media}/{profile.initrd}"]


@pytest.mark.parametrize("name", sorted(name for name, profile in shipped().items() if profile.has_script))
def test_the_boot_script_fetches_what_it_should(
    name: str, boot: Callable[..., QemuMachine], host: Host
) -> None:
    """S0-10, S0-11, S4-6: wimboot and its files, mboot, linux and initrd.gz; the boot side without a SAN."""
    files = files_of(name)
    script = files.pop("install.ipxe").replace("http://192.0.2.1:8080", host.base)
    host.answers["/ipxe"] = [script]
    wanted = expected(name)
    for path in wanted:
        host.answers[path] = [files.get(path.rpartition("/")[2], "a dummy")]
    host.answers[wanted[0]] = [dummy_kernel()]
    machine = boot()
    wait_until(lambda: GREETING in text_of(machine.spec.serial_log), 120, f"the kernel; seen {host.asked}")
    assert host.asked == BEFORE + wanted
    record(shipped()[name], "fetched", "real iPXE ran its boot script and fetched what it should")
