"""How far a profile is proven: each word has its evidence, and evidence does not outlive the text it was seen with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from baremetal.netboot import standing
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.standing import Standing, digest_of, judge
from baremetal.netboot.templates import Templates, freeze
from tests.unit.netboot.shipped import shipped

ROCKY, LEAP = shipped()["rocky9"], shipped()["opensuse-leap15"]
UNCHECKED = Finding(Severity.UNCHECKED, "cannot check: pykickstart is not installed", "ks.cfg")
WRONG = Finding(Severity.ERROR, "an unknown command", "ks.cfg", 3)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> dict[str, Mapping[str, Any]]:
    known: dict[str, Mapping[str, Any]] = {}
    monkeypatch.setattr(standing, "recorded", lambda: known)
    return known


def state(profile: Any = ROCKY, findings: list[Finding] | None = None) -> tuple[Standing, str]:
    judged = judge(profile, freeze(profile, Templates.with_own()), findings)
    return judged.standing, judged.reason


def digest(profile: Any, kind: str) -> str:
    return digest_of(profile, freeze(profile, Templates.with_own()), kind)


def test_nothing_is_claimed_that_nobody_saw(record: dict[str, Any]) -> None:
    assert state()[0] is Standing.RENDERED
    assert state(findings=[UNCHECKED])[0] is Standing.RENDERED
    assert state(LEAP, [])[0] is Standing.RENDERED


def test_a_checker_that_ran_and_found_nothing_validates(record: dict[str, Any]) -> None:
    assert state(findings=[]) == (Standing.VALIDATED, "pykickstart finds nothing wrong")


def test_what_is_wrong_is_broken_whatever_was_seen_before(record: dict[str, Any]) -> None:
    record["rocky9"] = {"booted": {"on": "2026-01-01", "by": "a rack", "digest": digest(ROCKY, "answers")}}
    assert state(findings=[WRONG])[0] is Standing.BROKEN
    unset = replace(ROCKY, variables={})
    assert state(unset)[0] is Standing.BROKEN
    assert "release" in state(unset)[1]


def test_a_recorded_validation_holds_for_the_same_text_only(record: dict[str, Any]) -> None:
    record["rocky9"] = {
        "validated": {"on": "2026-01-01", "by": "pykickstart", "digest": digest(ROCKY, "answers")}
    }
    assert state() == (Standing.VALIDATED, "2026-01-01: pykickstart found nothing wrong")
    assert state(replace(ROCKY, variables={"release": 8}))[0] is Standing.RENDERED


def test_a_boot_is_told_with_what_has_changed_since(record: dict[str, Any]) -> None:
    record["rocky9"] = {"booted": {"on": "2026-01-01", "by": "a rack", "digest": digest(ROCKY, "answers")}}
    assert state() == (Standing.BOOTED, "2026-01-01: a rack")
    changed = state(replace(ROCKY, variables={"release": 8}))
    assert changed == (Standing.BOOTED, "2026-01-01: a rack; its texts have changed since")


def test_fetches_count_where_there_is_no_checker(record: dict[str, Any]) -> None:
    record["opensuse-leap15"] = {
        "fetched": {"on": "2026-01-01", "by": "iPXE", "digest": digest(LEAP, "script")}
    }
    judged = state(LEAP, [])
    assert judged[0] is Standing.FETCH_CHECKED
    assert "no checker for its answer file" in judged[1]
    assert state(replace(LEAP, kernel="boot/other"), [])[0] is Standing.RENDERED
