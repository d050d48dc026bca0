"""Linting: every shipped profile is clean, and each thing that must be found is found, with its file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from baremetal.netboot.lint import checkers
from baremetal.netboot.lint.finding import Finding, Severity
from baremetal.netboot.lint.lint import check_renders, lint_profile
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.templates import Templates
from tests.unit.netboot.sample import PROFILES

pytestmark = pytest.mark.slow

PARTS = """
%pre
{% include "kickstart/_pre.sh.j2" %}
%end
%post --nochroot
{% include "kickstart/_post.sh.j2" %}
%end
%onerror
{% include "kickstart/_failed.sh.j2" %}
%end
"""
HEAD = "text\nrootpw --lock\nreboot\n%include /tmp/bm-disk.ks\n%packages\n@core\n%end\n"


def lint(folder: Path, text: str, release: int = 9) -> list[Finding]:
    (folder / "kickstart").mkdir(exist_ok=True)
    (folder / "kickstart/own.ks.j2").write_text(text)
    profile = Profile(
        "own",
        Family.KICKSTART,
        "vmlinuz",
        "initrd.img",
        "kickstart/own.ks.j2",
        variables={"release": release},
    )
    return lint_profile(profile, Templates.with_own(folder))


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_shipped_profile_is_clean(name: str) -> None:
    assert [str(found) for found in lint_profile(PROFILES[name], Templates.with_own())] == []


@pytest.mark.parametrize("release", [7, 8, 9])
def test_the_redhat_template_is_clean_for_each_release(release: int) -> None:
    profile = replace(PROFILES["rocky9"], variables={"release": release})
    assert [str(found) for found in lint_profile(profile, Templates.with_own())] == []


def test_a_plain_template_of_ones_own_is_clean(tmp_path: Path) -> None:
    assert lint(tmp_path, HEAD + PARTS) == []


@pytest.mark.parametrize(
    ("added", "words", "line"),
    [
        ("clearpart --all --initlabel\n", "every disk", 1),
        ("rootpw --plaintext secret\n", "password in the open", 1),
        ("rootpw --iscrypted $6$salt$0123456789abcdef\n", "password hash", 1),
        ("frobnicate --now\n", "frobnicate", 1),
        ("lang en_US\nbootloader --boot-dive=sda\n", "boot-dive", 2),
        ("lang {{ locale }}\n", "locale is printed without escaping", 1),
        ("lang {{ lokale | ks }}\n", "undefined variable lokale", 1),
        ("lang {{ locale | sh }}\n", "without escaping", 1),
        ("%post\necho {{ hostname }}\n%end\n", "hostname is printed without escaping", 2),
        ("%post\nif true; then\n%end\n", "Syntax error", 3),
        ("%pre\nwipefs -a /dev/sda\n%end\n", "before the call-back install-started", 2),
        ("{% if gateway %}\n", "Unexpected end of template", None),
        ("{% include 'kickstart/absent.j2' %}\n", "no template kickstart/absent.j2", None),
        ("{% include 'kickstart/own.ks.j2' %}\n", "includes itself", None),
    ],
)
def test_each_fault_is_found_with_its_line(tmp_path: Path, added: str, words: str, line: int | None) -> None:
    """Pain 16."""
    found = lint(tmp_path, added + HEAD + PARTS)
    fitting = [finding for finding in found if words in finding.message]
    assert fitting, [str(finding) for finding in found]
    if line is not None:
        assert fitting[0].line == line
    assert fitting[0].file


def test_a_template_without_call_backs_is_an_error(tmp_path: Path) -> None:
    said = " ".join(finding.message for finding in lint(tmp_path, HEAD))
    assert "install-started" in said
    assert "install-complete" in said
    assert "no %pre writes one" in said


def test_partitioning_without_a_named_disk_is_an_error(tmp_path: Path) -> None:
    text = "autopart\n" + HEAD.replace("%include /tmp/bm-disk.ks\n", "")
    found = [finding for finding in lint(tmp_path, text) if "ignoredisk --only-use=" in finding.message]
    assert [(finding.line, finding.severity) for finding in found] == [(1, Severity.ERROR)]


def test_no_reboot_is_a_warning(tmp_path: Path) -> None:
    found = lint(tmp_path, HEAD.replace("reboot\n", "") + PARTS)
    assert [(finding.severity, finding.message[:9]) for finding in found] == [(Severity.WARNING, "no reboot")]


@pytest.mark.parametrize(("release", "words"), [(8, "install"), (9, "auth")])
def test_what_later_releases_no_longer_know_is_found(tmp_path: Path, release: int, words: str) -> None:
    """Pain 16: by the syntax of the release."""
    found = lint(tmp_path, "install\nauth --enableshadow\n" + HEAD + PARTS, release)
    assert any(words in finding.message for finding in found)


def test_md5_beside_sha512_is_found(tmp_path: Path) -> None:
    text = (
        "auth --enableshadow --passalgo=sha512\nrootpw --iscrypted $1$salt$0123456789abcdefghijkl\n"
        + HEAD
        + PARTS
    )
    assert any("MD5" in finding.message for finding in lint(tmp_path, text, 7))


def test_old_spellings_on_the_kernel_line_are_a_warning() -> None:
    profile = replace(PROFILES["rocky9"], kernel_args="ksdevice=bootif ks=ftp://192.0.2.1/ks.cfg")
    found = lint_profile(profile, Templates.with_own())
    assert [(finding.severity, finding.file) for finding in found] == [(Severity.WARNING, "kernel_args")]


def test_a_preseed_with_a_fixed_disk_a_password_and_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "preseed").mkdir()
    shipped = Templates.with_own().text("preseed/debian.cfg.j2")
    (tmp_path / "preseed/debian.cfg.j2").write_text(
        "d-i partman-auto/disk string /dev/sda\nd-i passwd/root-password password secret\nd-i broken\n"
        + shipped
    )
    found = lint_profile(PROFILES["debian12"], Templates.with_own(tmp_path))
    said = {(finding.line, finding.message[:20]) for finding in found}
    assert (1, "partman-auto/disk is") in said
    assert (2, "a password in the op") in said
    assert any("parse" in finding.message for finding in found), said


def test_a_missing_checker_is_said_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkers, "find_program", lambda _: None)
    found = lint(tmp_path, HEAD + PARTS)
    assert {finding.severity for finding in found} == {Severity.UNCHECKED}
    assert any("pykickstart is not installed" in finding.message for finding in found)


def test_the_cheap_half_renders_only() -> None:
    assert check_renders(PROFILES["rocky9"], Templates.with_own()) == []
    broken = replace(PROFILES["rocky9"], variables={})
    found = check_renders(broken, Templates.with_own())
    assert {(finding.code, finding.variable, finding.line) for finding in found} == {("BM203", "release", 1)}


def test_a_profile_is_told_where_its_template_was_looked_for(tmp_path: Path) -> None:
    found = check_renders(
        replace(PROFILES["tiny"], template="kickstart/none.ks.j2"), Templates.with_own(tmp_path)
    )
    assert len(found) == 1
    assert str(tmp_path) in found[0].message
