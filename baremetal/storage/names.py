"""The names of iSCSI: initiators, targets, volumes, and the URI that a loader is given (RFC 3720, RFC 4173).

Owns their grammar and the templates that a site names its own by (S0-6, S1-5, S4-5). Deliberately unknown: who asks.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from baremetal.errors import Invalid

DEFAULT_PORT = 3260
MOST_OCTETS = 223  # RFC 3720 3.2.6.1
# iqn.: a year and month, the reversed name of its naming authority, and what that makes of it (RFC 3720 3.2.6.3.1).
# RFC 3722 folds names to lower case; upper case is taken, because arrays whose LUNs are made by hand show it so.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_IQN = re.compile(rf"iqn\.(?P<year>\d{{4}})-(?P<month>\d{{2}})(\.{_LABEL})+(?P<unique>:[A-Za-z0-9.:-]+)?\Z")
_EUI = re.compile(r"eui\.[0-9A-Fa-f]{16}\Z")
_NAA = re.compile(r"naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32})\Z")  # RFC 3980
_VOLUME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")
_SYSTEM = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,22}[A-Za-z0-9])?\Z")
FIELDS = ("base", "server", "hostname", "system", "mac", "mac_hex", "mac_hyphens")


def check_iqn(text: str, what: str = "iSCSI name") -> str:
    """Return an iSCSI name that can be one. Raises Invalid."""
    found = _IQN.match(text)
    if found and not (1 <= int(found["month"]) <= 12):
        raise Invalid(f"{what} {text!r}: {found['month']} is no month", fix="write iqn.YYYY-MM.…")
    if not (found or _EUI.match(text) or _NAA.match(text)):
        raise Invalid(
            f"{what} {text!r} does not follow RFC 3720",
            fix="write iqn.YYYY-MM.DOMAIN-REVERSED:NAME with letters, digits, dots, hyphens and colons, "
            "as in iqn.2026-01.org.example:r1",
        )
    if len(text) > MOST_OCTETS:
        raise Invalid(f"{what} {text[:40]!r}… is longer than {MOST_OCTETS} octets")
    return text


def check_system(text: str) -> str:
    """Return the name of one of a server's systems, which stands in its target's name (S0-6). Raises Invalid."""
    if not _SYSTEM.match(text):
        raise Invalid(
            f"system {text[:32]!r}: not 1 to 24 letters, digits and hyphens, a hyphen neither first nor last",
            variable="system",
        )
    return text


def check_volume_name(text: str) -> str:
    """Return a volume name that every backend can have. Raises Invalid."""
    if not _VOLUME.match(text):
        raise Invalid(
            f"volume name {text!r}: not 1 to 48 of a-z, 0-9 and hyphens, a hyphen neither first nor last"
        )
    return text


@dataclass(frozen=True, slots=True)
class Naming:
    """A site's templates, with the fields `FIELDS` in braces. Those of one server give the same names every time."""

    base: str
    target: str = "{base}:{server}.{system}"
    initiator: str = "{base}:{server}"

    def __post_init__(self) -> None:
        sample = dict.fromkeys(FIELDS, "x") | {"base": self.base, "mac": "52:54:00:00:00:01"}
        check_iqn(self.base, "base IQN")
        for what, template in (("target", self.target), ("initiator", self.initiator)):
            check_iqn(_fill(what, template, sample), f"{what} name by the template {template!r}")

    def target_iqn(self, values: Mapping[str, str]) -> str:
        """Name a target. Raises Invalid."""
        return check_iqn(_fill("target", self.target, {**values, "base": self.base}), "target name")

    def initiator_iqn(self, values: Mapping[str, str]) -> str:
        """Name an initiator. Raises Invalid."""
        return check_iqn(_fill("initiator", self.initiator, {**values, "base": self.base}), "initiator name")


def name_values(server: str, hostname: str, mac: str, system: str = "main") -> dict[str, str]:
    """Lay out what a template may say. A server without a host name is called by its MAC (S0-4, S0-6)."""
    return {
        "server": server,
        "hostname": hostname or mac,
        "system": system,
        "mac": mac,
        "mac_hex": mac.replace(":", ""),
        "mac_hyphens": mac.replace(":", "-"),
    }


def _fill(what: str, template: str, values: Mapping[str, str]) -> str:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise Invalid(f"{what} name template {template!r}: {error}") from None
    text = ""
    for literal, name, form, conversion in parts:
        text += literal
        if name is None:
            continue
        if name not in FIELDS or form or conversion:
            raise Invalid(
                f"{what} name template {template!r}: nothing is known as {{{name}}}",
                fix=f"known are {', '.join(FIELDS)}",
            )
        text += values.get(name, "")
    return text


def volume_name(server: str, server_id: str, run: int, data: int = 0) -> str:
    """Name the volume of one run, or its data disk of this number: readable, and no other server's."""
    readable = re.sub(r"[^a-z0-9]+", "-", server.lower()).strip("-")[:24].strip("-")
    last = f"-d{data}" if data else ""
    return check_volume_name(f"bm-{readable or 'server'}-{server_id[:6].lower()}-{run}{last}")


def split_portal(portal: str) -> tuple[str, int]:
    """Split `ADDRESS[:PORT]`, 3260 by default; an IPv6 address in brackets. Raises Invalid.

    An address, not a name: loaders and initiators resolve no names in an iBFT (S0-4, S1-4).
    """
    found = re.match(r"(?:\[([^]]+)]|([^:\[\]]+))(?::([0-9]{1,5}))?\Z", portal)
    try:
        if not found:
            raise ValueError
        address = ipaddress.ip_address(found[1] or found[2])
        port = int(found[3] or DEFAULT_PORT)
        if not 0 < port < 65536 or (address.version == 6) != (found[1] is not None):
            raise ValueError
    except ValueError:
        raise Invalid(
            f"portal {portal!r} is not ADDRESS[:PORT] with an IP address, as in 10.0.0.5:3260"
        ) from None
    return str(address), port


def san_uri(portal: str, lun: int, target: str) -> str:
    """Return `iscsi:<server>:<protocol>:<port>:<LUN>:<target>` (RFC 4173 5; S0-7): the LUN in hexadecimal, 0 empty."""
    address, port = split_portal(portal)
    host = f"[{address}]" if ":" in address else address
    return f"iscsi:{host}::{port if port != DEFAULT_PORT else ''}:{f'{lun:x}' if lun else ''}:{target}"
