"""What loaders call the files they look for, and what such a name asks: whose configuration, or the last resort.

Owns the loaders there are, and the spellings of MAC, address and UUID in their names. How each orders its names is
grub.py and pxelinux.py. Deliberately unknown: what is answered, and who the servers are.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from baremetal.errors import Invalid
from baremetal.netboot.variables import normal_mac

_HYPHENS = re.compile(r"01-([0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5})\Z")
_ADDRESS = re.compile(r"[0-9A-F]{1,8}\Z", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)


class Loader(StrEnum):
    """Who reads the boot answer. lpxelinux is pxelinux that speaks HTTP."""

    IPXE = "ipxe"
    GRUB = "grub"
    PXELINUX = "pxelinux"
    LPXELINUX = "lpxelinux"


class By(StrEnum):
    """How a name tells whose file it is."""

    MAC = "mac"
    UUID = "uuid"
    ADDRESS = "address"
    PREFIX = "prefix"  # of an address: a group of machines; nothing is ever kept under such a name
    LAST = "last"  # the name that ends the sequence
    SETTINGS = "settings"  # where we are, for scripts that load it first; nobody's


@dataclass(frozen=True, slots=True)
class Question:
    """What a name asks. `key` is a MAC in colon form, a UUID in lower case, an address, or empty.

    `own`: a name that only our own configuration asks for; no further name follows it.
    """

    by: By
    key: str = ""
    own: bool = False


def read_key(text: str) -> Question | None:
    """Read the part of a name that says whose it is: `01-…`, a UUID, one to eight hex digits. None: none of these."""
    found = _HYPHENS.match(text)
    if found:
        return of_mac(found[1])
    if _UUID.match(text):
        return Question(By.UUID, text.lower())
    if _ADDRESS.match(text):
        if len(text) < 8:
            return Question(By.PREFIX, text.upper())
        return Question(By.ADDRESS, str(ipaddress.IPv4Address(int(text, 16))))
    return None


def of_mac(text: str, *, own: bool = False) -> Question | None:
    """Ask by a MAC in any spelling; None where no NIC could have it."""
    try:
        return Question(By.MAC, normal_mac(text), own)
    except Invalid:
        return None


def address_keys(address: str) -> list[str]:
    """Spell an IPv4 address as loaders do: eight upper-case hex digits, then ever fewer. IPv6 has no such names."""
    try:
        number = int(ipaddress.IPv4Address(address.partition("/")[0]))
    except ValueError:
        return []
    digits = f"{number:08X}"
    return [digits[:length] for length in range(8, 0, -1)]


def mac_key(mac: str) -> str:
    """Spell a MAC as loaders do: the hardware type of Ethernet, and hyphens."""
    return "01-" + mac.lower().replace(":", "-")


def swap_uuid(uuid: str) -> str:
    """Write a UUID with its first three fields' bytes the other way round.

    SMBIOS keeps them little-endian (§7.2.1, since 2.6); PXE firmware hands the bytes on as they lie, and pxelinux
    prints them in that order.
    """
    if not _UUID.match(uuid):
        return uuid
    low, middle, high, *rest = uuid.lower().split("-")
    return "-".join([*(bytes.fromhex(field)[::-1].hex() for field in (low, middle, high)), *rest])
