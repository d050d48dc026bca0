"""Our configurations in the loaders themselves: Debian's pxelinux, and its shim with the signed GRUB (S3-2, S3-3)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from baremetal.cli.demo import cache_folder
from baremetal.errors import LabError
from baremetal.lab.tiny.build import TinyMedia, build
from baremetal.lifecycle.model import BootMode
from baremetal.netboot import grub, pxelinux
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.lookup import Loader, swap_uuid
from baremetal.netboot.menu import Menu
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.scripts import LocalBoot, LocalBootMethod
from baremetal.netboot.templates import Templates, freeze
from baremetal.ramsystem import packages
from tests.lab import grub_image
from tests.lab.guests import DISK_GREETING, boot_sector, wait_until
from tests.lab.loader_guests import SYSLINUX, SYSTEM_UUID, Guest, boot

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MAC = "52:54:00:0b:00:22"
BY_MAC = "pxelinux.cfg/01-52-54-00-0b-00-22"
BY_UUID = f"pxelinux.cfg/{swap_uuid(SYSTEM_UUID)}"
AGAIN = pxelinux.own_name(MAC)
MEDIA = "media/_r1.1/dummy"
WORDS = "console=ttyS0 panic=-1 ds=nocloud-net;s=http://192.0.2.1/x/"
PROFILE = Profile("dummy", Family.KICKSTART, "vmlinuz", "initrd.img", "kickstart/tiny.ks.j2", WORDS)
FROZEN = freeze(PROFILE, Templates.with_own())
LOCAL: dict[str, Any] = {"local_boot": LocalBoot().as_dict(), "menu": None}
MENU = LOCAL | {"menu": Menu("baremetal: r1", "Install dummy (run 1)", 3).as_dict()}
SHIM = ["bootx64.efi", "revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi", "grubx64.efi"]
BOOTED = b"ommand line: "
_LINE = re.compile(re.escape(BOOTED) + rb"([^\r\n]*)[\r\n]")


def context() -> Context:
    return Context(
        server=ServerFacts("0" * 32, "r1", (MAC,), MAC),
        run=1,
        profile=PROFILE,
        variables=merge_variables(),
        urls=Urls.of("http://10.0.2.2:8080", "_r1.1/dummy", "f" * 44, "c" * 44),
    )


@pytest.fixture(scope="module")
def tiny() -> TinyMedia:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed")
    return build(cache_folder())


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's packages of loaders, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("loaders")
    apt = packages.Apt()
    try:
        found = apt.locate(["grub-efi-amd64-signed", "pxelinux", "shim-signed"])
    except LabError as error:
        pytest.skip(str(error))
    packages.unpack(apt.fetch(found, cache_folder() / "packages"), folder)
    return folder


@pytest.fixture
def start(tmp_path: Path, tiny: TinyMedia, loaders: Path) -> Iterator[Callable[..., Guest]]:
    """Boots a machine of a mode from a folder with these texts; `kernel` false leaves the kernel out.

    `uuid` is what its SMBIOS says. `upstream`: by GRUB as upstream builds it, without a shim.
    """
    with ExitStack() as stack:

        def start(
            mode: BootMode,
            texts: dict[str, str],
            kernel: bool = True,
            uuid: str = SYSTEM_UUID,
            upstream: bool = False,
        ) -> Guest:
            tree, disk = tmp_path / "tftp", tmp_path / "disk.img"
            media = tree / MEDIA
            media.mkdir(parents=True)
            if kernel:
                shutil.copy(tiny.kernel, media)
            (media / "initrd.img").write_bytes(b"none")
            for name, text in texts.items():
                file = tree / name.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            if mode is BootMode.BIOS:
                first = "pxelinux.0"
                shutil.copy(loaders / "usr/lib/PXELINUX/pxelinux.0", tree)
                for file in SYSLINUX.glob("*.c32"):
                    shutil.copy(file, tree)
                disk.write_bytes(boot_sector())
                os.truncate(disk, 8 << 20)
            elif upstream:
                first = "grubx64.efi"
                grub_image.make(tree / first)
                shutil.copy(tiny.image, disk)
            else:
                first = "bootx64.efi"
                shutil.copy(loaders / "usr/lib/shim/shimx64.efi.signed", tree / first)
                signed = loaders / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
                shutil.copy(signed, tree / "grubx64.efi")
                shutil.copy(tiny.image, disk)
            return stack.enter_context(boot(tmp_path, tree, first, MAC, disk, mode, system_uuid=uuid))

        yield start


def comes_to(guest: Guest, words: bytes) -> None:
    try:
        wait_until(lambda: words in guest.said, 200, repr(words))
    except AssertionError as error:
        raise AssertionError(f"{error}; asked {guest.asked}; said {guest.said[-600:]!r}") from None


def command_line(guest: Guest) -> str:
    comes_to(guest, BOOTED)
    found = wait_until(lambda: _LINE.findall(guest.said), 30, "the whole line")
    return bytes(found[0]).decode()


def test_pxelinux_starts_the_installer(start: Callable[..., Guest]) -> None:
    """S3-3, S2-3: by its MAC, with kernel and initrd by TFTP, and the BOOTIF of the NIC that booted."""
    config = pxelinux.install_config(FROZEN, context(), Loader.PXELINUX, more=LOCAL)
    guest = start(BootMode.BIOS, {BY_MAC: config})
    words = command_line(guest).split()
    assert words[1] == f"inst.ks=http://10.0.2.2:8080/answer/{'f' * 44}/ks.cfg"
    assert words[2:5] == WORDS.split()
    assert words[-1] == "BOOTIF=01-52-54-00-0b-00-22"
    assert guest.asked == [
        "pxelinux.0",
        "ldlinux.c32",
        BY_UUID,
        BY_MAC,
        f"{MEDIA}/vmlinuz",
        f"{MEDIA}/initrd.img",
    ]


@pytest.mark.parametrize("method", [LocalBootMethod.EXIT, LocalBootMethod.NEXT, LocalBootMethod.SANBOOT])
def test_pxelinux_leaves_a_stranger_to_its_disk(start: Callable[..., Guest], method: LocalBootMethod) -> None:
    """S3-3: down its whole list, with no file but the last; by every method of local boot.

    Debian's build byte-swaps the UUID that QEMU put into SMBIOS, as `lookups` says.
    """
    guest = start(BootMode.BIOS, {"pxelinux.cfg/default": pxelinux.local_config("no", LocalBoot(method))})
    comes_to(guest, DISK_GREETING)
    assert guest.asked[2:13] == pxelinux.lookups(MAC, "10.0.2.15", SYSTEM_UUID)


@pytest.mark.parametrize(("version", "is_asked"), [("0f", False), ("10", True), ("ef", True), ("f0", False)])
def test_pxelinux_passes_over_a_uuid_whose_version_it_misreads(
    start: Callable[..., Guest], version: str, is_asked: bool
) -> None:
    """S3-3: UUIDs of version 4, of which it reads the byte beside."""
    uuid = f"59cac7d3-1ff9-46{version}-9086-20eb2a0e61e2"
    local = {"pxelinux.cfg/default": pxelinux.local_config("no")}
    guest = start(BootMode.BIOS, local, uuid=uuid)
    comes_to(guest, DISK_GREETING)
    first = f"pxelinux.cfg/d3c7ca59-f91f-{version}46-9086-20eb2a0e61e2" if is_asked else BY_MAC
    assert guest.asked[2] == first == pxelinux.lookups(MAC, "", uuid)[0]


@pytest.mark.long
def test_pxelinux_asks_again_while_we_cannot_answer(start: Callable[..., Guest]) -> None:
    """I2."""
    config = pxelinux.install_config(FROZEN, context(), Loader.PXELINUX, more=LOCAL)
    guest = start(BootMode.BIOS, {BY_MAC: pxelinux.wait_config(MAC), AGAIN: config})
    command_line(guest)
    assert guest.asked[3:] == [BY_MAC, "ldlinux.c32", AGAIN, f"{MEDIA}/vmlinuz", f"{MEDIA}/initrd.img"]


@pytest.mark.long
def test_pxelinux_comes_back_where_the_kernel_did_not_load(start: Callable[..., Guest]) -> None:
    config = pxelinux.install_config(FROZEN, context(), Loader.PXELINUX, more=LOCAL)
    guest = start(BootMode.BIOS, {BY_MAC: config, AGAIN: pxelinux.local_config("gone")}, kernel=False)
    comes_to(guest, DISK_GREETING)
    assert guest.asked[3:] == [BY_MAC, f"{MEDIA}/vmlinuz", "ldlinux.c32", AGAIN]


@pytest.mark.long
def test_pxelinux_shows_a_menu(start: Callable[..., Guest]) -> None:
    """S0-5, S0-8."""
    config = pxelinux.install_config(FROZEN, context(), Loader.PXELINUX, more=MENU)
    command_line(start(BootMode.BIOS, {BY_MAC: config}))


@pytest.mark.long
def test_debians_grub_starts_the_installer(start: Callable[..., Guest]) -> None:
    """S3-2, S3-4: through the one `grub.cfg`, with a word that GRUB would split if it were not quoted."""
    config = grub.install_config(FROZEN, context(), more=LOCAL)
    guest = start(BootMode.UEFI, {"grub/grub.cfg": grub.first_config(), grub.own_name(MAC): config})
    words = command_line(guest).split()
    assert words[1] == "BOOTIF=01-52-54-00-0b-00-22"
    assert words[3:] == WORDS.split()
    names = [name.lstrip("/") for name in grub.debian_lookups(MAC)]
    assert guest.asked == [*SHIM, *names, f"{MEDIA}/vmlinuz", f"{MEDIA}/initrd.img"]


def test_debians_grub_leaves_a_machine_to_its_disk(start: Callable[..., Guest]) -> None:
    """The disk's own shim and GRUB: a bare `exit` would end in the firmware's menu."""
    texts = {
        "grub/grub.cfg": grub.first_config(),
        grub.own_name(MAC): grub.local_config("active: boots its disk"),
    }
    comes_to(start(BootMode.UEFI, texts), b"tiny: up")


@pytest.mark.long
def test_debians_grub_asks_again_while_we_cannot_answer(start: Callable[..., Guest], tmp_path: Path) -> None:
    """I2."""
    texts = {"grub/grub.cfg": grub.first_config(), grub.own_name(MAC): grub.wait_config()}
    guest = start(BootMode.UEFI, texts)
    comes_to(guest, b"asking again in 5 s")
    config = grub.install_config(FROZEN, context(), more=MENU)
    (tmp_path / "tftp" / grub.own_name(MAC).lstrip("/")).write_text(config)
    command_line(guest)


def test_upstreams_grub_goes_down_its_whole_list(start: Callable[..., Guest]) -> None:
    """S3-2: by MAC, then by address with a digit less each time; the last name is not looked for before it is read."""
    guest = start(BootMode.UEFI, {"grub.cfg": "echo 'this is the last one'\nsleep 60\n"}, upstream=True)
    comes_to(guest, b"this is the last one")
    *names, last = [name.removeprefix("/") for name in grub.lookups(MAC, "10.0.2.15")]
    lists = [f"x86_64-efi/{name}.lst" for name in ("command", "fs", "crypto", "terminal")]
    assert guest.asked == ["grubx64.efi", *names, *lists, last]
