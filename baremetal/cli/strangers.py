"""Which strangers `enroll --from-unknown` means, what each is to be called, and what it told when it asked to boot.

Owns the words of the command line only. Whether a name can be taken is the service's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baremetal.errors import Invalid, Unknown

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-]?)(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}\Z")


@dataclass(frozen=True, slots=True)
class Stranger:
    """A machine that nobody has enrolled yet, and the name that it gets. `mac` in lower-case colon form."""

    name: str
    mac: str


def read_strangers(given: Sequence[str], words: Sequence[str]) -> list[Stranger]:
    """Read `[NAME=]MAC` as often as it was given, also behind one --from-unknown. Raises Invalid.

    One other word among `words` is the name of the only machine. A machine without a name is called after its MAC.
    """
    more = [word for word in words if _is_machine(word)]
    names = [word for word in words if not _is_machine(word)]
    if more and len(given) > 1:
        # The BMCs come in the same order, and here it would not be the order that was written.
        raise Invalid(
            "some MACs stand without --from-unknown", fix="put it before each of them, or once before all"
        )
    machines = [_stranger(word) for word in (*given, *more)]
    if names and (len(machines) > 1 or len(names) > 1 or machines[0][0]):
        raise Invalid(
            f"which machine is {names[0]!r}?", fix="write --from-unknown NAME=MAC, once for each machine"
        )
    for _, mac in machines:
        if sum(mac == other for _, other in machines) > 1:
            raise Invalid(f"the MAC {mac} is given twice")
    alone = names[0] if names else ""
    return [Stranger(name or alone or f"server-{mac.replace(':', '')}", mac) for name, mac in machines]


def find_strangers(
    wanted: Sequence[Stranger], unknown: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return what each of the strangers told, in order. Raises Unknown naming those that never asked to boot."""
    told = {seen["mac"]: seen for seen in unknown}
    missing = [stranger.mac for stranger in wanted if stranger.mac not in told]
    if missing:
        raise Unknown(
            f"no unknown machine with the MAC {', '.join(missing)} has asked to boot",
            fix="see `baremetal list --unknown`",
        )
    return [told[stranger.mac] for stranger in wanted]


def _is_machine(word: str) -> bool:
    # Twelve hex digits without separators may be a name.
    return "=" in word or (_MAC.match(word) is not None and not word.isalnum())


def _stranger(word: str) -> tuple[str, str]:
    name, _, mac = word.rpartition("=")
    if not _MAC.match(mac):
        raise Invalid(f"{word[:80]!r} is no MAC", fix="write MAC or NAME=MAC, as in r1=52:54:00:12:34:56")
    digits = mac.lower().replace(":", "").replace("-", "")
    return name, ":".join(digits[at : at + 2] for at in range(0, 12, 2))
