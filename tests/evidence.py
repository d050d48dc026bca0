"""Writes down what a test has seen a profile do, for `baremetal profile list` to tell; only when asked to.

UPDATE_EVIDENCE=yes pytest … records, in one process (no -n: two would write over each other). Without it
nothing is written.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from baremetal.netboot.profile import Profile
from baremetal.netboot.standing import EVIDENCE, digest_of, recorded
from baremetal.netboot.templates import Templates, freeze

RECORD = Path(__file__).parents[1] / EVIDENCE
_DIGESTED = {"booted": "answers", "validated": "answers", "fetched": "script"}


def record(profile: Profile, kind: str, by: str) -> None:
    """Note what was seen (`booted`, `validated` or `fetched`), by whom, with the digest of what it was seen with."""
    if os.environ.get("UPDATE_EVIDENCE") != "yes":
        return
    whole = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    frozen = freeze(profile, Templates.with_own())
    seen = {
        "on": datetime.now(UTC).date().isoformat(),
        "by": by,
        "digest": digest_of(profile, frozen, _DIGESTED[kind]),
    }
    before = whole.setdefault(profile.name, {}).get(kind)
    if before is None or (before["digest"], before["by"]) != (seen["digest"], seen["by"]):
        whole[profile.name][kind] = seen
        RECORD.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", "utf-8")
        recorded.cache_clear()
