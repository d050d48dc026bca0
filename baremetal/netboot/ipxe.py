"""iPXE: the names under which its scripts are asked for, ours and the founding systems' (S0-2, S0-3, S1-2, S4-3).

Scripts that are asked for with a query (`/ipxe?mac=…`) are the boot app's. Deliberately unknown: whose MAC it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from baremetal.netboot.lookup import By, Question, of_mac, read_key
from baremetal.netboot.scripts import shipped

# `autoexec.ipxe` is what newer builds look for beside themselves, wherever that is; `menu.ipxe` ends the order of S0-2.
CONSTANT: Final = ("boot.ipxe", "default.ipxe", "menu.ipxe", "autoexec.ipxe")
SETTINGS: Final = "boot.ipxe.cfg"
_BESIDE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}/){1,6}autoexec\.ipxe\Z")
_MAC_HEX = re.compile(r"boot/mac-([0-9A-Fa-f]{12})\.ipxe\Z")
_UUID = re.compile(r"boot/uuid-([0-9A-Fa-f-]{36})\.ipxe\Z")
_MAC_CFG = re.compile(r"cfg/mac-([0-9A-Fa-f]{12})\.ipxe\.cfg\Z")
_MAC_HYPHENS = re.compile(r"([0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5})\.ipxe\Z")


def read_name(name: str) -> Question | None:
    """Say what a file name asks, as a path without a leading slash; None: no script of iPXE's."""
    name = name.removeprefix("ipxe/")
    if name in CONSTANT or _BESIDE.match(name):
        return Question(By.LAST)
    if name == SETTINGS:
        return Question(By.SETTINGS)
    # boot/mac-… and boot/uuid-… stand in the middle of a loader's lookup sequence: a stranger goes on from there.
    if found := _MAC_HEX.match(name):
        return of_mac(found[1])
    if found := _UUID.match(name):
        return read_key(found[1])
    found = _MAC_CFG.match(name) or _MAC_HYPHENS.match(name)
    return of_mac(found[1], own=True) if found else None


def founding_lookups(mac: str, uuid: str = "") -> list[str]:
    """List what the founding systems' own scripts ask for, as far as it names a machine (S0-2, S4-3, S1-2)."""
    hexed, hyphens = mac.replace(":", ""), mac.replace(":", "-")
    named = [f"boot/uuid-{uuid}.ipxe"] if uuid else []
    return [
        SETTINGS,
        *named,
        f"boot/mac-{hexed}.ipxe",
        "menu.ipxe",
        f"ipxe/cfg/mac-{hexed}.ipxe.cfg",
        f"{hyphens}.ipxe",
    ]


@lru_cache(maxsize=8)
def settings_script(base: str) -> str:
    """Return `boot.ipxe.cfg`: where we are, in the variables of S0-4 and S4-3; it decides nothing."""
    return shipped("settings.ipxe", base=base.rstrip("/"))
