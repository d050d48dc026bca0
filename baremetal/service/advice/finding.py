"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` None: only worth knowing."""

    name: str
    ok: bool | None
    what: str
    code: str = ""
    fix: str = ""
