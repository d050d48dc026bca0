"""pxelinux and lpxelinux: the names they look for, and the configurations that they read.

Below `pxelinux.cfg/`: the client's UUID, `01-MAC`, the address in ever fewer hex digits, `default` (syslinux,
core/fs/pxe/pxe.c, `pxe_load_config`). The two differ in where kernel and initrd come from: pxelinux.0 has TFTP only,
lpxelinux.0 takes http URLs; whoever asks by HTTP is lpxelinux. They have no scripts: nothing can be tried again but a
whole configuration. And no quoting: what cannot be said as it stands is refused. Deliberately unknown: whose MAC it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from baremetal.errors import Invalid
from baremetal.netboot.context import Context
from baremetal.netboot.lookup import By, Loader, Question, address_keys, mac_key, of_mac, read_key, swap_uuid
from baremetal.netboot.menu import Menu
from baremetal.netboot.render import render_loader_script
from baremetal.netboot.scripts import DEFAULT, LocalBoot, local_values, shipped
from baremetal.netboot.templates import INSTALL_PXELINUX, Frozen

FOLDER: Final = "pxelinux.cfg"
LONGEST_LINE: Final = 2047  # of a kernel command line; the rest would be cut off without a word
_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63}/){0,4}pxelinux\.cfg/([A-Za-z0-9-]{1,64})\Z")
_AGAIN = re.compile(r"again-([0-9A-Fa-f]{12}|[0-9A-Fa-f]{32})\Z")
_PAUSE_S = 5


def read_name(name: str) -> Question | None:
    """Say what a file name asks, as a path without a leading slash; None: no configuration of pxelinux's."""
    found = _NAME.match(name)
    if found is None:
        return None
    if found[1] == "default":
        return Question(By.LAST)
    again = _AGAIN.match(found[1])
    return _own_question(again[1]) if again else read_key(found[1])


def lookups(mac: str, address: str = "", uuid: str = "", prefix: str = "") -> list[str]:
    """List the names that pxelinux asks for, in order; `uuid` as SMBIOS writes it, which pxelinux byte-swaps."""
    own = swap_uuid(uuid)
    keys = [*([own] if _is_asked(own) else []), mac_key(mac), *address_keys(address), "default"]
    return [f"{prefix}{FOLDER}/{key}" for key in keys]


def _is_asked(uuid: str) -> bool:
    """Whether pxelinux takes a UUID, in the order that it prints, for one.

    It reads the version where RFC 4122 §4.1.3 has it, but in bytes that lie the other way round, and passes over
    versions 0 and 15: that is one of eight random UUIDs. Measured with 6.04.
    """
    return bool(uuid) and uuid.split("-")[2][0] not in "0f"


def own_name(key: str) -> str:
    """Name the file that our configurations send a machine back to; outside the order, so it always has an answer.

    `key`: its MAC or its UUID, whichever it has told; "" for one that told neither, which asks by the last name again.
    """
    digits = key.replace(":", "").replace("-", "")
    return f"{FOLDER}/again-{digits}" if digits else f"{FOLDER}/default"


def _own_question(digits: str) -> Question | None:
    if len(digits) == 12:
        return of_mac(digits, own=True)
    return Question(By.UUID, str(UUID(digits)), own=True)


@lru_cache(maxsize=512)
def wait_config(key: str) -> str:
    """Return the configuration for when we cannot answer: waits, and asks again. `key` as for `own_name`.

    It cannot count; whoever serves it does.
    """
    return shipped("wait.pxelinux", name=own_name(key), pause_ds=_PAUSE_S * 10)


@lru_cache(maxsize=512)
def local_config(reason: str, how: LocalBoot = DEFAULT, menu: Menu | None = None) -> str:
    """Return the configuration that leaves a machine to its own disk, saying why.

    EXIT goes back to the BIOS, which tries what comes next in its order (LOCALBOOT 0); NEXT tells it that booting
    failed (LOCALBOOT -1, INT 18h); SANBOOT and CHAIN start the first disk's boot sector with chain.c32.
    """
    return shipped("localboot.pxelinux", **local_values(reason, how, menu))


def install_config(frozen: Frozen, context: Context, loader: Loader, *, more: Mapping[str, Any]) -> str:
    """Render the configuration that starts this run's installer. Raises Invalid BM203, BM204.

    A name after `::` goes to the TFTP server as it stands, whatever folder pxelinux.0 came from.
    """
    media = context.urls.media
    place = media if loader is Loader.LPXELINUX else "::" + urlsplit(media).path.removeprefix("/")
    told = {**more, "media_place": place, "name": own_name(context.server.boot_mac)}
    text = render_loader_script(INSTALL_PXELINUX, frozen, context, told)
    longest = max((len(line) for line in text.splitlines()), default=0)
    if longest > LONGEST_LINE:
        raise Invalid(
            f"a line of {longest} characters, of which pxelinux reads {LONGEST_LINE}",
            code="BM204",
            file=INSTALL_PXELINUX,
            fix="shorten kernel_args, or boot this server with iPXE or GRUB",
        )
    return text
