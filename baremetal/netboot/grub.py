"""GRUB: the names it looks for, and the configurations that it reads.

GRUB asks for its configuration in one of two ways. Red Hat's and upstream's builds ask `grub.cfg-01-MAC`, then by ever
shorter address, then `grub.cfg` (`grub_net_search_config_file`, net/net.c). Debian's signed build carries a
configuration of its own that sources `$prefix/grub.cfg`, which is `/grub/grub.cfg`: it never asks per MAC, and has no
HTTP. So `grub.cfg` is the same few lines for every machine, which source a file per MAC.

Kernel and initrd are named without a device, so that they come from where GRUB itself came from (`$root`): TFTP for
Debian's build, HTTP for one that the firmware fetched by HTTP. Deliberately unknown: whose MAC it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from baremetal.netboot.context import Context
from baremetal.netboot.lookup import By, Question, address_keys, mac_key, of_mac, read_key
from baremetal.netboot.menu import Menu
from baremetal.netboot.render import render_loader_script
from baremetal.netboot.scripts import DEFAULT, LocalBoot, local_values, shipped
from baremetal.netboot.templates import INSTALL_GRUB, Frozen

# GRUB looks beside itself, wherever DHCP said that is, or in the folder it was made with (/grub, debian-installer/…).
_FOLDER = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}/){0,6}\Z")
# Its modules' folder, where Debian's build looks first: there is nothing there.
_MODULES = re.compile(r"(?:^|/)(?:x86_64|i386|arm64|arm|riscv64)-(?:efi|pc)/\Z")
_OWN = re.compile(r"grub/mac/([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5})\.cfg\Z")
_TRIES = 24
_PAUSE_S = 5


def read_name(name: str) -> Question | None:
    """Say what a file name asks, as a path without a leading slash; None: no configuration of GRUB's."""
    found = _OWN.match(name)
    if found:
        return of_mac(found[1], own=True)
    folder, slash, file = name.rpartition("/")
    if not _FOLDER.match(folder + slash) or _MODULES.search(folder + slash):
        return None
    if file == "grub.cfg":
        return Question(By.LAST)
    return read_key(file.removeprefix("grub.cfg-")) if file.startswith("grub.cfg-") else None


def lookups(mac: str, address: str = "", uuid: str = "", prefix: str = "/") -> list[str]:
    """List the names that Red Hat's and upstream's builds ask for, in order, by one NIC. `prefix` ends in a slash."""
    keys = [*([uuid] if uuid else []), mac_key(mac), *address_keys(address)]
    return [*(f"{prefix}grub.cfg-{key}" for key in keys), f"{prefix}grub.cfg"]


def debian_lookups(mac: str, arch: str = "x86_64") -> list[str]:
    """List what Debian's signed network build asks for, with our `grub.cfg` (seen of 2.06-13+deb12u2, both of them).

    It also carries a test for `$prefix/x86_64-efi/grub.cfg`, but that sends nothing over TFTP.
    """
    lists = ("command", "fs", "crypto", "terminal")
    return [*(f"/grub/{arch}-efi/{name}.lst" for name in lists), "/grub/grub.cfg", own_name(mac)]


def own_name(mac: str) -> str:
    """Name the file per MAC that our `grub.cfg` sources."""
    return f"/grub/mac/{mac}.cfg"


@lru_cache(maxsize=2)
def first_config() -> str:
    """Return `grub.cfg`: the same bytes for every machine and both kinds of build."""
    return shipped("first.grub", tries=_TRIES, pause_s=_PAUSE_S)


@lru_cache(maxsize=2)
def wait_config() -> str:
    """Return the file per MAC for when we cannot answer: `grub.cfg`, which sourced it, asks again after a while."""
    return shipped("wait.grub")


@lru_cache(maxsize=512)
def local_config(reason: str, how: LocalBoot = DEFAULT, menu: Menu | None = None) -> str:
    """Return the configuration that leaves a machine to its own disk, saying why.

    Without a method the disk's own loader is looked for first: upstream's `exit` cannot report failure, and UEFI
    firmware takes success for "booted well" and opens its menu. EXIT and NEXT only leave.
    """
    return shipped("localboot.grub", **local_values(reason, how, menu))


def install_config(
    frozen: Frozen,
    context: Context,
    *,
    commands: str | None = None,
    media: str | None = None,
    more: Mapping[str, Any],
) -> str:
    """Render the configuration that starts this run's installer. Raises Invalid BM203, BM204.

    `commands`: `linuxefi` for builds before 2.06 under Secure Boot; otherwise `linux` comes first, and `linuxefi` where
    it fails. `media`: `http` fetches kernel and initrd by HTTP although GRUB itself came by TFTP.
    """
    efi, plain = ["linuxefi", "initrdefi"], ["linux", "initrd"]
    kinds = {"linux": [plain], "linuxefi": [efi]}.get(commands or "", [plain, efi])
    url = urlsplit(context.urls.media)
    device = f"(http,{url.netloc})" if media == "http" else ""
    told = {**more, "commands": kinds, "media_path": device + url.path}
    return render_loader_script(INSTALL_GRUB, frozen, context, told)
