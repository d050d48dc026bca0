"""How a machine finds its volume: the URI, its own name, and what it proves itself with.

Owns the value that the SAN scripts are rendered from. The CHAP secret in it is one of the two secrets that may stand in
a boot script (promises I23). Deliberately unknown: who keeps the volume.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from baremetal.netboot.tokens import MASKED


@dataclass(frozen=True, slots=True)
class San:
    """`uri` as RFC 4173 has it; without CHAP its fields are "".

    `gateway`: what iPXE is to take for its gateway, and to put into the iBFT (S0-10). `system`: what its server calls
    the system there; `others`: where that server's other systems are.
    """

    uri: str
    initiator: str
    user: str = ""
    password: str = field(default="", repr=False)
    mutual_user: str = ""
    mutual_password: str = field(default="", repr=False)
    gateway: str = ""
    system: str = "main"
    others: tuple[San, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As a template sees it: one volume, without the others."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "others"}

    def masked(self) -> San:
        """Return it as a person may see it."""
        return replace(
            self,
            password=self.password and MASKED,
            mutual_password=self.mutual_password and MASKED,
            others=tuple(other.masked() for other in self.others),
        )
