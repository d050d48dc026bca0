"""What an inspection says of a machine's parts, read with suspicion, and how templates and people see it.

Owns the fields and their bounds. A field that is malformed is an error, one that nobody knows is passed over. Disks
come in the same form as an installer reports them, so that disk selectors can be tried on them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from baremetal.errors import Invalid
from baremetal.netboot.variables import normal_mac

_MOST = 64
_WORD = re.compile(r"[A-Za-z0-9._:@-]{1,64}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def read_inventory(value: Any, disks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Check what was said of processors, memory, NICs and the BMC; `disks` were checked before. Raises Invalid."""
    if not isinstance(value, Mapping):
        raise Invalid("inventory is not an object", variable="inventory")
    nics = value.get("nics") or []
    if not isinstance(nics, list) or len(nics) > _MOST:
        raise Invalid(f"inventory.nics is not a list of at most {_MOST}", variable="inventory")
    return {
        "cpus": _number(value, "cpus", 65536),
        "cpu": _line(value, "cpu"),
        "arch": _word(value, "arch"),
        "memory_mib": _number(value, "memory_mib", 2**40),
        "disks": [dict(disk) for disk in disks],
        "nics": [_nic(nic) for nic in nics],
        "bmc_address": _address(value.get("bmc_address")),
        "vendor": _line(value, "vendor"),
        "product": _line(value, "product"),
    }


def for_templates(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a run freezes of an inventory for its templates; nothing where the machine was never inspected."""
    return {} if found is None else {"known": True, **found}


def _nic(nic: Any) -> dict[str, Any]:
    if not isinstance(nic, Mapping):
        raise Invalid("inventory.nics holds something that is no NIC", variable="inventory")
    link = nic.get("link")
    return {
        "name": _word(nic, "name"),
        "mac": normal_mac(str(nic.get("mac", ""))),
        "speed_mbps": _number(nic, "speed_mbps", 10**7),
        "link": link if isinstance(link, bool) else None,
    }


def _number(value: Mapping[str, Any], name: str, most: int) -> int | None:
    number = value.get(name)
    if number is None or number == "":
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
        raise Invalid(f"inventory.{name} is not a number in bounds", variable="inventory")
    return number


def _word(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name) or ""
    if not isinstance(text, str) or (text and not _WORD.match(text)):
        raise Invalid(f"inventory.{name} is malformed", variable="inventory")
    return text


def _line(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name) or ""
    if not isinstance(text, str):
        raise Invalid(f"inventory.{name} is not a text", variable="inventory")
    return " ".join(_CONTROL.sub(" ", text).split())[:128]


def _address(text: Any) -> str:
    try:
        return str(ipaddress.ip_address(str(text).strip())) if text else ""
    except ValueError:
        raise Invalid("inventory.bmc_address is no address", variable="inventory") from None
