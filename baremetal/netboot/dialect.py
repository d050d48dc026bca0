"""One boot answer in each loader's language: installing, leaving to the disk, waiting.

Owns which module speaks for which loader, and what a file name asks of whom. Deliberately unknown: what is answered,
and how the name came in, but for HTTP, by which lpxelinux is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baremetal.errors import Invalid
from baremetal.netboot import grub, ipxe, pxelinux
from baremetal.netboot.context import Context
from baremetal.netboot.lookup import By, Loader, Question
from baremetal.netboot.menu import Menu
from baremetal.netboot.render import render_install_script
from baremetal.netboot.san import San
from baremetal.netboot.scripts import (
    DEFAULT,
    LocalBoot,
    boot_script,
    local_boot_script,
    san_script,
    wait_script,
)
from baremetal.netboot.templates import Frozen


@dataclass(frozen=True, slots=True)
class Manner:
    """How one server is spoken to, by its loader and its quirks. `commands` and `media` are GRUB's (see grub.py).

    `nic`: the MAC that it netboots by this time; "" where that is not known, and the server's first is supposed.
    """

    loader: Loader = Loader.IPXE
    local: LocalBoot = DEFAULT
    commands: str | None = None
    media: str | None = None
    nic: str = ""


FILE_NAMES = {
    Loader.IPXE: "install.ipxe",
    Loader.GRUB: "grub.cfg",
    Loader.PXELINUX: "pxelinux.cfg",
    Loader.LPXELINUX: "lpxelinux.cfg",
}
"""What a rendered answer is called in previews."""


def read_name(name: str, *, http: bool) -> tuple[Loader, Question] | None:
    """Say which loader asks what by a file name, a path without a leading slash. None: no loader's configuration."""
    if found := pxelinux.read_name(name):
        return Loader.LPXELINUX if http else Loader.PXELINUX, found
    if found := grub.read_name(name):
        return Loader.GRUB, found
    if found := ipxe.read_name(name):
        return Loader.IPXE, found
    return None


def constant(loader: Loader, question: Question, base: str) -> str | None:
    """Return what every machine is told alike under a name; None where it depends on the machine.

    pxelinux has no such file: it cannot ask for another by its MAC, so `default` leaves a machine to its disk.
    """
    if question.by is By.SETTINGS:
        return ipxe.settings_script(base)
    if question.by is not By.LAST:
        return None
    match loader:
        case Loader.IPXE:
            return boot_script(base)
        case Loader.GRUB:
            return grub.first_config()
        case _:
            return pxelinux.local_config("no configuration of its own, so it is no enrolled server")


def install_text(frozen: Frozen, context: Context, manner: Manner, menu: Menu | None) -> str:
    """Render what starts this run's installer. Raises Invalid BM203, BM204; so where only iPXE can start it."""
    if context.profile.needs_ipxe and manner.loader is not Loader.IPXE:
        raise Invalid(
            f"only iPXE can start {context.profile.name}: {context.profile.family} boots no kernel with an initrd",
            code="BM204",
            seen=f"asked for by {manner.loader}",
            fix="boot this server with iPXE",
        )
    more: dict[str, Any] = {
        "local_boot": manner.local.as_dict(),
        "menu": menu and menu.as_dict(),
        "nic": manner.nic or context.server.boot_mac,
    }
    match manner.loader:
        case Loader.IPXE:
            return render_install_script(frozen, context, more)
        case Loader.GRUB:
            return grub.install_config(
                frozen, context, commands=manner.commands, media=manner.media, more=more
            )
        case _:
            return pxelinux.install_config(frozen, context, manner.loader, more=more)


def local_text(manner: Manner, reason: str, menu: Menu | None = None) -> str:
    """Say why a machine is left to its own disk, and leave it."""
    match manner.loader:
        case Loader.IPXE:
            return local_boot_script(reason, manner.local, menu)
        case Loader.GRUB:
            return grub.local_config(reason, manner.local, menu)
        case _:
            return pxelinux.local_config(reason, manner.local, menu)


def san_text(manner: Manner, san: San, reason: str, base: str, menu: Menu | None = None) -> str:
    """Send a machine to its volume. Loaders that know no iSCSI can only leave it where it is, and say so."""
    if manner.loader is Loader.IPXE:
        return san_script(san, reason, base, manner.local, menu)
    return local_text(manner, f"{reason}; only iPXE can, and this is {manner.loader}")


def wait_text(loader: Loader, base: str, key: str, *, own: bool) -> str:
    """Say that we cannot answer just now. `key`: the machine's MAC or UUID, "" if it told neither.

    `own`: asked for by a configuration of ours, which asks again by itself.
    """
    match loader:
        case Loader.IPXE:
            return wait_script(base)
        case Loader.GRUB:
            return grub.wait_config() if own else grub.first_config()
        case _:
            return pxelinux.wait_config(key)
