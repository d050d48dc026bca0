"""What a netbooting machine says of itself: by a query, or by the name of the file that it asks for.

Deliberately unknown: whose machine it is, and what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from baremetal.errors import Invalid
from baremetal.netboot.dialect import read_name
from baremetal.netboot.lookup import By, Loader, Question
from baremetal.netboot.variables import normal_mac


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
        uuid = asked.key if asked.by is By.UUID else ""
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
