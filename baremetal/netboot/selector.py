"""Disk selectors: which disk of a machine may be written.

Owns the grammar, the choice, and the one-line form that the installers' pre stage (kickstart/_disks.sh.j2)
understands. A selector that fits no disk, or two, refuses: it never falls back to "the first".
Deliberately unknown: how disks are listed.

    auto                              the machine has exactly one disk
    serial=S    wwn=W                 of the disk itself
    path=/dev/disk/by-path/…          resolved on the machine
    size>=100G,rotational=false       any of these, combined by commas (G is 10^9, Gi is 2^30)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from baremetal.errors import Invalid
from baremetal.lifecycle.model import Disk

_WORD = re.compile(r"[A-Za-z0-9._:+-]{1,64}\Z")
_PATH = re.compile(r"/dev/[A-Za-z0-9._:+@-]+(/[A-Za-z0-9._:+@-]+)*\Z")
_SIZE = re.compile(r"([0-9]{1,15})([KMGTP]?)(i?)B?\Z")
_TERM = re.compile(r"(serial|wwn|path|size|rotational)(>=|<=|=)(.+)\Z")
_WWN_HEAD = re.compile(r"(0x|naa\.|eui\.)")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition: what is compared, how, with what (already normalised)."""

    field: str
    operator: str
    value: str | int | bool

    def __str__(self) -> str:
        value = str(int(self.value)) if isinstance(self.value, bool) else str(self.value)
        return f"{self.field}{self.operator}{value}"

    def fits(self, disk: Disk) -> bool:
        """Whether a disk meets this condition; what the disk does not say, it does not meet."""
        match self.field:
            case "serial":
                return disk.serial == self.value
            case "wwn":
                return disk.wwn != "" and normal_wwn(disk.wwn) == self.value
            case "path":
                return f"/dev/{disk.name}" == self.value
            case "rotational":
                return disk.rotational is not None and disk.rotational == self.value
        assert isinstance(self.value, int)
        if self.operator == ">=":
            return disk.size >= self.value
        return disk.size <= self.value if self.operator == "<=" else disk.size == self.value


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction of terms; none at all is `auto`."""

    terms: tuple[Term, ...] = ()

    def shell_form(self) -> str:
        """Write it for the pre stage: sizes in bytes, rotational as 0 or 1, no spaces."""
        return ",".join(map(str, self.terms)) or "auto"

    def choose(self, disks: Iterable[Disk]) -> Disk:
        """Return the one disk that fits. Raises Invalid BM402 with what was seen on none or several."""
        seen = list(disks)
        fitting = [disk for disk in seen if all(term.fits(disk) for term in self.terms)]
        if len(fitting) == 1:
            return fitting[0]
        how_many = "no disk fits" if not fitting else f"{len(fitting)} disks fit"
        raise Invalid(
            f"{how_many} the disk selector {self.shell_form()}",
            code="BM402",
            variable="disk",
            seen="; ".join(f"{disk.name} serial={disk.serial or '-'} size={disk.size}" for disk in seen)
            or "no disk",
            fix="name the disk by its serial number: --var disk=serial=…",
        )


def parse_selector(text: str) -> Selector:
    """Read a selector. Raises Invalid naming the variable `disk`."""
    if text == "auto":
        return Selector()
    terms = tuple(_parse_term(part) for part in text.split(","))
    for at, term in enumerate(terms):
        if any((term.field, term.operator) == (other.field, other.operator) for other in terms[:at]):
            raise _invalid(text, f"{term.field} is given twice")
    return Selector(terms)


def normal_wwn(text: str) -> str:
    """Bring the spellings of kernel, udev and vendors to one: lower case, no naa., eui. or 0x before it."""
    return _WWN_HEAD.sub("", text.lower(), count=1)


def _parse_term(text: str) -> Term:
    found = _TERM.match(text)
    if not found:
        raise _invalid(
            text, "terms are serial=, wwn=, path=, size>=, size<=, size= and rotational=, or `auto` alone"
        )
    field, operator, value = found.groups()
    if operator != "=" and field != "size":
        raise _invalid(text, f"{field} can only be compared with =")
    match field:
        case "serial":
            return Term(field, operator, _checked(_WORD, text, value, "letters, digits and . _ : + -"))
        case "wwn":
            return Term(
                field, operator, normal_wwn(_checked(_WORD, text, value, "letters, digits and . _ : + -"))
            )
        case "path":
            if ".." in value.split("/"):
                raise _invalid(text, "a path stays under /dev")
            return Term(field, operator, _checked(_PATH, text, value, "a path under /dev"))
        case "rotational":
            if value not in ("true", "false", "1", "0"):
                raise _invalid(text, "rotational is true or false")
            return Term(field, operator, value in ("true", "1"))
    size = _SIZE.match(value)
    if not size:
        raise _invalid(text, "sizes look like 500107862016, 100G or 100Gi")
    number, unit, binary = size.groups()
    return Term(field, operator, int(number) * (1024 if binary else 1000) ** _POWERS[unit])


def _checked(form: re.Pattern[str], text: str, value: str, fix: str) -> str:
    if not form.match(value):
        raise _invalid(text, f"use {fix}")
    return value


def _invalid(text: str, fix: str) -> Invalid:
    return Invalid("not a disk selector", variable="disk", seen=text[:80], fix=fix)
