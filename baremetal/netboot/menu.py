"""The menu that a machine shows before its boot answer, where its server asks for one (S0-5, S0-8).

Owns the choice of default and time-out. A menu only stands before the one answer there is: it offers that, the local
disk, other systems on the server's own volumes, and what the loader can do by itself; never another installer.
Deliberately unknown: how a loader draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from baremetal.netboot.variables import validate_variable

TIMEOUT: Final = "menu_timeout_s"
DEFAULT: Final = "menu_default"


@dataclass(frozen=True, slots=True)
class Menu:
    """A menu over one answer. `default` is `answer` or `local`; after `timeout_s` seconds it is taken.

    `systems`: what else the server has on volumes of its own.
    """

    title: str
    answer: str
    timeout_s: int
    default: str = "answer"
    systems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As a template sees it."""
        return asdict(self) | {"systems": list(self.systems)}


def menu_for(
    variables: Mapping[str, Any], server: str, answer: str, systems: tuple[str, ...] = ()
) -> Menu | None:
    """Make the menu that a server's variables ask for; None without `menu_timeout_s`. Raises Invalid."""
    timeout = validate_variable(TIMEOUT, variables.get(TIMEOUT))
    if timeout is None:
        return None
    default = validate_variable(DEFAULT, variables.get(DEFAULT)) or "answer"
    return Menu(f"baremetal: {server}", answer, timeout, default, systems)
