"""The iPXE scripts that belong to no run: the constant first one, local boot, and "wait, we cannot answer".

Owns their parameters. They are rendered from the shipped loaders once per set of arguments and kept, for they must
be servable when nothing else works. Deliberately unknown: who asks, and why; the reason comes in words.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from baremetal.netboot.render import render_text
from baremetal.netboot.templates import Templates

_UNSAFE = re.compile(r"[^A-Za-z0-9 ()'.,:/_-]+")


class LocalBootMethod(StrEnum):
    """How a machine is left to its own disk; firmwares differ."""

    EXIT = "exit"
    SANBOOT = "sanboot"
    CHAIN = "chain"


@lru_cache(maxsize=8)
def boot_script(base: str) -> str:
    """Return the script that every iPXE gets first; it asks for the machine's own answer at `base`/ipxe."""
    return _render("boot.ipxe", base=base.rstrip("/"), rounds=6, tries=24, pause_s=5)


@lru_cache(maxsize=8)
def wait_script(base: str) -> str:
    """Return the script for when we cannot answer, by a fault of ours: wait two minutes, then local boot."""
    return _render("wait.ipxe", base=base.rstrip("/"), tries=24, pause_s=5)


@lru_cache(maxsize=512)
def local_boot_script(
    reason: str, method: LocalBootMethod = LocalBootMethod.EXIT, chain_url: str | None = None
) -> str:
    """Return the script that leaves a machine to its own disk, saying why. CHAIN needs the URL to chain to."""
    if method is LocalBootMethod.CHAIN and not chain_url:
        method = LocalBootMethod.EXIT
    words = " ".join(_UNSAFE.sub(" ", reason).split()) or "local boot"
    return _render("localboot.ipxe", reason=words, method=method.value, chain_url=chain_url)


def _render(name: str, **values: str | int | None) -> str:
    return render_text(_text(f"loaders/{name}.j2"), f"loaders/{name}.j2", values)


@lru_cache(maxsize=8)
def _text(name: str) -> str:
    return Templates.with_own().text(name)
