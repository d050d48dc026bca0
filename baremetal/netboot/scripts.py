"""The iPXE scripts that belong to no run: the constant first one, local boot, SAN boot, "wait, we cannot answer".

Owns their parameters. They are rendered from the shipped loaders once per set of arguments and kept, for they must
be servable when nothing else works. Deliberately unknown: who asks, and why; the reason comes in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from baremetal.netboot.menu import Menu
from baremetal.netboot.render import render_set
from baremetal.netboot.san import San
from baremetal.netboot.templates import Frozen, Templates, collect

_UNSAFE = re.compile(r"[^A-Za-z0-9 ()'.,:/_-]+")


class LocalBootMethod(StrEnum):
    """How a machine is left to its own disk; firmwares differ.

    EXIT goes back to the firmware, NEXT tells it that booting failed where a loader can tell these apart, SANBOOT and
    CHAIN start the disk from within the loader (CHAIN in iPXE by a URL).
    """

    EXIT = "exit"
    NEXT = "next"
    SANBOOT = "sanboot"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class LocalBoot:
    """How one server is left to its own disk. Without a method each loader takes what suits most firmwares."""

    method: LocalBootMethod | None = None
    url: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As a template sees it."""
        method = self.method or LocalBootMethod.EXIT
        if method is LocalBootMethod.CHAIN and not self.url:
            method = LocalBootMethod.EXIT
        return {"method": method.value, "url": self.url, "chain": self.method not in _LEAVING}


DEFAULT = LocalBoot()
_LEAVING = (LocalBootMethod.EXIT, LocalBootMethod.NEXT)


@lru_cache(maxsize=8)
def boot_script(base: str) -> str:
    """Return the script that every iPXE gets first; it asks for the machine's own answer at `base`/ipxe."""
    return shipped("boot.ipxe", base=base.rstrip("/"), rounds=6, tries=24, pause_s=5)


@lru_cache(maxsize=8)
def wait_script(base: str) -> str:
    """Return the script for when we cannot answer, by a fault of ours: wait two minutes, then local boot."""
    return shipped("wait.ipxe", base=base.rstrip("/"), tries=24, pause_s=5)


@lru_cache(maxsize=512)
def local_boot_script(reason: str, how: LocalBoot = DEFAULT, menu: Menu | None = None) -> str:
    """Return the script that leaves a machine to its own disk, saying why. CHAIN needs the URL to chain to."""
    return shipped("localboot.ipxe", **local_values(reason, how, menu))


@lru_cache(maxsize=512)
def san_script(san: San, reason: str, base: str, how: LocalBoot = DEFAULT, menu: Menu | None = None) -> str:
    """Return the script that boots a machine from its volume, and from nothing else unless a person says so (I7)."""
    # a person chooses among several systems; nobody is asked where nobody would be heard
    sans = [one.as_dict() for one in ((san, *san.others) if menu else (san,))]
    return shipped(
        "san.ipxe", base=base.rstrip("/"), tries=6, pause_s=5, sans=sans, **local_values(reason, how, menu)
    )


def local_values(reason: str, how: LocalBoot, menu: Menu | None) -> dict[str, Any]:
    """Lay out what every loader's template of local boot is told. The reason becomes plain words."""
    return {"reason": _words(reason), "local_boot": how.as_dict(), "menu": menu and menu.as_dict()}


def _words(reason: str) -> str:
    return " ".join(_UNSAFE.sub(" ", reason).split()) or "local boot"


def shipped(template: str, **values: Any) -> str:
    """Render a shipped template of the loaders over plain values."""
    file = f"loaders/{template}.j2"
    return render_set(_texts(file), file, values)


@lru_cache(maxsize=16)
def _texts(name: str) -> Frozen:
    texts: dict[str, str] = {}
    collect(name, Templates.with_own(), texts)
    return Frozen({}, texts)
