"""What a netbooting machine says of itself: by a query, or by the name of the file that it asks for.

Deliberately unknown: whose machine it is, and what it is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from baremetal.errors import Invalid
from baremetal.netboot.dialect import read_name
from baremetal.netboot.lookup import By, Loader, Question
from baremetal.netboot.variables import normal_mac

# What boards say that were never given a number: all of a kind say the same, so it tells nobody from anybody.
_NO_UUID: Final = frozenset(
    (
        "03000200-0400-0500-0006-000700080009",  # AMI's, on boards of many makers
        "00020003-0004-0005-0006-000700080009",  # the same, as PXE firmware hands it on
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "78563412-3412-7856-90ab-cddeefaabbcc",
    )
)
_NO_SERIAL: Final = re.compile(
    r"""(?: to[ ]be[ ]filled[ ]by.* | default[ ]string | (?:system|chassis|base[ ]?board)[ ]serial[ ]number
      | not[ ](?:specified|available|applicable|provided|settable) | n/?a | none | null | unknown | invalid | empty
      | (?:01234567|012345678|0123456789|123456789|1234567890) | ([0.xf-])\1* )\Z""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a netbooting machine says of itself, and where the request came from and went to.

    `asked` is the question in the file's name, for a loader that can only ask by names.
    """

    mac: str = ""
    uuid: str = ""
    serial: str = ""
    arch: str = ""
    address: str = ""
    base: str = ""
    loader: Loader = Loader.IPXE
    asked: Question | None = None

    @classmethod
    def by_name(cls, name: str, address: str, base: str, *, http: bool) -> Machine | None:
        """Read a file name as a machine's question; None for a name that is no loader's configuration."""
        found = read_name(name, http=http)
        if found is None:
            return None
        loader, asked = found
        mac = asked.key if asked.by is By.MAC else ""
        uuid = machine_uuid(asked.key) if asked.by is By.UUID else ""
        return cls(mac=mac, uuid=uuid, address=address, base=base, loader=loader, asked=asked)

    @property
    def key(self) -> str:
        """What tells it from others, as far as it has said: its MAC, its UUID, or "" for neither."""
        return self.mac or self.uuid

    @property
    def goes_on(self) -> bool:
        """Whether the loader has further names to ask for, so that *not found* is an answer."""
        return self.asked is not None and not self.asked.own and self.asked.by is not By.LAST


def machine_mac(text: str) -> str:
    """Bring a MAC as loaders write it to our form; "" for anything that is none."""
    try:
        return normal_mac(text)
    except Invalid:
        return ""


def machine_uuid(text: str) -> str:
    """Bring a UUID as loaders write it to lower case; "" for one that says nothing, because many machines have it."""
    uuid = text.strip().lower()[:64]
    return "" if uuid in _NO_UUID or not uuid.strip("0-") or not uuid.strip("f-") else uuid


def machine_serial(text: str) -> str:
    """Trim a serial number; "" for what firmware says that was never given one."""
    serial = text.strip()[:128]
    return "" if _NO_SERIAL.match(serial) else serial
