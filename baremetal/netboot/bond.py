"""The grammar of the variable `bond`: NAME:PORT,PORT[:OPTION=VALUE,…[:MTU]], as dracut writes it.

Deliberately unknown: how an installer spells a bond.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from baremetal.errors import Invalid

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")
_OPTION = re.compile(r"[a-z_]{2,32}=[A-Za-z0-9.+_/-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Bond:
    """A bonded interface."""

    name: str
    ports: tuple[str, ...]
    options: tuple[str, ...] = ()
    mtu: int | None = None

    def __str__(self) -> str:
        text = f"{self.name}:{','.join(self.ports)}"
        if self.options or self.mtu:
            text += ":" + ",".join(self.options)
        return text + (f":{self.mtu}" if self.mtu else "")

    def as_dict(self) -> dict[str, Any]:
        """As a template sees it."""
        return {"name": self.name, "ports": list(self.ports), "options": list(self.options), "mtu": self.mtu}


def parse_bond(text: str) -> Bond:
    """Read `bond0:eno1,eno2:mode=802.3ad,miimon=100`. Raises Invalid."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 4:
        raise _invalid(text, "it has the form NAME:PORT,PORT[:OPTION=VALUE,…[:MTU]]")
    name, ports = parts[0], tuple(parts[1].split(","))
    options = tuple(parts[2].split(",")) if len(parts) > 2 and parts[2] else ()
    if not all(_DEVICE.match(device) for device in (name, *ports)):
        raise _invalid(text, "interface names are letters, digits, dot, hyphen and underscore, up to 15")
    if len(set(ports)) != len(ports):
        raise _invalid(text, "a port is named twice")
    if not all(_OPTION.match(option) for option in options):
        raise _invalid(text, "options have the form mode=802.3ad,miimon=100")
    mtu = None
    if len(parts) == 4:
        if not parts[3].isascii() or not parts[3].isdigit() or not 68 <= int(parts[3]) <= 65535:
            raise _invalid(text, "the MTU is a number from 68 to 65535")
        mtu = int(parts[3])
    return Bond(name, ports, options, mtu)


def _invalid(text: str, fix: str) -> Invalid:
    return Invalid("not a bond", variable="bond", seen=text[:80], fix=fix)
