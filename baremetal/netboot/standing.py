"""How far a profile has been proven: booted, validated, fetch-checked, or only rendered; always with a reason.

Owns the order of these words and the record of what was seen (docs/evidence/profiles.json, which is shipped), in which
every entry carries the digest of what was rendered then: a template that has changed since is said to have.
Deliberately unknown: how the evidence was gathered; the tests that saw it write it down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from baremetal.errors import Invalid
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.lint import CHECKERS
from baremetal.netboot.lint.samples import sample_context, samples
from baremetal.netboot.profile import Profile
from baremetal.netboot.render import render_answer, render_install_script
from baremetal.netboot.templates import Frozen, shipped_folders

EVIDENCE: Final = "docs/evidence/profiles.json"


class Standing(StrEnum):
    """The best that is known of a profile.

    BOOTED: a system that it installed was proven. VALIDATED: its own checker found nothing. FETCH_CHECKED: real
    iPXE ran its boot script and fetched what it should. RENDERED: it renders, no more is known. BROKEN: it does
    not.
    """

    BOOTED = "booted"
    VALIDATED = "validated"
    FETCH_CHECKED = "fetch-checked"
    RENDERED = "rendered"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Judgement:
    """How far, and why so."""

    standing: Standing
    reason: str


def judge(profile: Profile, frozen: Frozen, findings: Sequence[Finding] | None) -> Judgement:
    """Say how far a profile is proven. `findings` are of a lint just made, None where there was none."""
    try:
        made = {kind: digest_of(profile, frozen, kind) for kind in ("answers", "script")}
    except Invalid as error:
        return Judgement(Standing.BROKEN, str(error))
    errors = [found for found in findings or () if found.severity is Severity.ERROR]
    if errors:
        return Judgement(Standing.BROKEN, str(errors[0]))
    seen: Mapping[str, Any] = recorded().get(profile.name, {})
    if booted := seen.get("booted"):
        since = "" if booted["digest"] == made["answers"] else "; its texts have changed since"
        return Judgement(Standing.BOOTED, f"{booted['on']}: {booted['by']}{since}")
    checker = CHECKERS.get(profile.family)
    if checker and findings is not None and not _unchecked(findings):
        return Judgement(Standing.VALIDATED, f"{checker} finds nothing wrong")
    validated = seen.get("validated")
    if validated and validated["digest"] == made["answers"]:
        return Judgement(Standing.VALIDATED, f"{validated['on']}: {validated['by']} found nothing wrong")
    fetched = seen.get("fetched")
    if fetched and fetched["digest"] == made["script"]:
        why = (
            f"{checker} is not installed"
            if checker
            else "there is no checker for its answer file but our own rules"
        )
        return Judgement(Standing.FETCH_CHECKED, f"{fetched['on']}: {fetched['by']}; {why}")
    return Judgement(
        Standing.RENDERED, "it renders for sample servers; nothing has run or checked it as it is now"
    )


def digest_of(profile: Profile, frozen: Frozen, kind: str) -> str:
    """Digest what sample servers would be served: the `answers`, or the boot `script`. Raises Invalid."""
    hashed = hashlib.sha256()
    for variables in samples(profile.family):
        context = sample_context(profile, **{**variables, **profile.variables})
        if kind == "script":
            if not profile.has_script:
                continue
            hashed.update(render_install_script(frozen, context).encode())
            continue
        for file in sorted(frozen.files):
            hashed.update(f"{file}\0{render_answer(frozen, file, context)}\0".encode())
    return hashed.hexdigest()[:32]


@lru_cache(maxsize=1)
def recorded() -> Mapping[str, Mapping[str, Any]]:
    """Read the record that came with this program; empty where none did."""
    for folder in shipped_folders():
        path = folder / EVIDENCE
        if path.is_file():
            found: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text("utf-8"))
            return found
    return {}


def _unchecked(findings: Sequence[Finding]) -> bool:
    return any(found.severity is Severity.UNCHECKED for found in findings)
