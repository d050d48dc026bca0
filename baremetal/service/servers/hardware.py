"""Selecting servers by their hardware: `ram>=64G and disk>=1T` (the founding systems' "select by spec", S2-6).

Owns the little language and what its words mean in an inventory. A server that was never inspected fits nothing that is
asked of its parts; that is why a bulk deploy never picks a machine by what nobody has seen.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baremetal.errors import Invalid
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

_TOKEN = re.compile(
    r"\s*(?:(?P<open>\()|(?P<close>\))|(?P<word>(?:and|or|not)\b)"
    r"|(?P<field>[a-z_]+)\s*(?P<sign>>=|<=|!=|==|=|>|<|~)\s*(?P<value>\"[^\"]*\"|[^\s()=<>!~][^\s()]*))",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?\Z", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_MOST_DEEP = 16

Found = Mapping[str, Any]
Test = Callable[[Found], bool | None]
"""None: nobody has seen what is asked for. It stays so through `not`, and fits nothing."""


def _memory(found: Found) -> float | None:
    """Return the bytes that the modules have: firmware keeps a part, so that 64 GiB of them show as 62.5."""
    mib = found.get("memory_mib")
    if not mib:
        return None
    grain = 2.0 ** (math.floor(math.log2(mib)) - 3)
    return float(math.ceil(mib / grain) * grain * 2**20)


def _sizes(found: Found) -> list[int]:
    return [disk["size"] for disk in found.get("disks") or () if disk.get("size")]


def _count(found: Found, what: str) -> int | None:
    return len(found[what]) if found.get(what) is not None else None


def _fastest(found: Found) -> int | None:
    return max((nic["speed_mbps"] or 0 for nic in found.get("nics") or ()), default=None)


@dataclass(frozen=True, slots=True)
class _Field:
    """What a word means. `base` is what K, M, G multiply with: 0 for texts, 1 for plain numbers."""

    read: Callable[[Found], Any]
    base: int
    says: str


FIELDS: Mapping[str, _Field] = {
    "ram": _Field(_memory, 1024, "memory, as its modules are sold: 64G fits a machine that shows 62.5 GiB"),
    "disk": _Field(lambda found: max(_sizes(found), default=None), 1000, "the largest disk"),
    "storage": _Field(lambda found: sum(_sizes(found)) or None, 1000, "all disks together"),
    "disks": _Field(lambda found: _count(found, "disks"), 1, "how many disks"),
    "cpus": _Field(lambda found: found.get("cpus"), 1, "logical processors"),
    "nics": _Field(lambda found: _count(found, "nics"), 1, "how many network interfaces"),
    "speed": _Field(_fastest, 1, "the fastest interface, in Mbit/s"),
    "cpu": _Field(lambda found: found.get("cpu") or None, 0, "the processor's name"),
    "vendor": _Field(lambda found: found.get("vendor") or None, 0, "who made the machine"),
    "product": _Field(lambda found: found.get("product") or None, 0, "the machine's model"),
    "arch": _Field(lambda found: found.get("arch") or None, 0, "x86_64 or arm64"),
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What was asked of a machine's parts; `parse("")` fits every server."""

    test: Test | None

    @classmethod
    def parse(cls, text: str) -> Hardware:
        """Read an expression. Raises Invalid, saying where it broke."""
        return cls(_Reader(text).whole() if text.strip() else None)

    def fits(self, store: Store, record: ServerRecord) -> bool:
        """Whether the newest inspection of a server fits."""
        if self.test is None:
            return True
        seen = store.inventory(record.id)
        return seen is not None and self.test(seen.found) is True


class _Reader:
    """A reader of `or` over `and` over `not`, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._deep = 0
        self._next = self._take()

    def whole(self) -> Test:
        test = self._either()
        if self._next is not None:
            raise self._broken("'and' or 'or'")
        return test

    def _take(self) -> re.Match[str] | None:
        if not self._text[self._at :].strip():
            return None
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._broken("something like ram>=64G")
        return found

    def _step(self) -> re.Match[str]:
        token = self._next
        assert token is not None
        self._at = token.end()
        self._next = self._take()
        return token

    def _is(self, word: str) -> bool:
        return self._next is not None and (self._next["word"] or "").lower() == word

    def _either(self) -> Test:
        tests = [self._both()]
        while self._is("or"):
            self._step()
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda found: _any([test(found) for test in tests])

    def _both(self) -> Test:
        tests = [self._one()]
        while self._is("and"):
            self._step()
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda found: _all([test(found) for test in tests])

    def _one(self) -> Test:
        if self._is("not"):
            self._step()
            inner = self._nested(self._one)
            return lambda found: _not(inner(found))
        if self._next is not None and self._next["open"]:
            self._step()
            test = self._nested(self._either)
            if self._next is None or not self._next["close"]:
                raise self._broken("a closing bracket")
            self._step()
            return test
        if self._next is None or not self._next["field"]:
            raise self._broken("something like ram>=64G")
        return self._comparison(self._step())

    def _nested(self, read: Callable[[], Test]) -> Test:
        self._deep += 1
        if self._deep > _MOST_DEEP:
            raise Invalid(f"brackets and nots more than {_MOST_DEEP} deep", variable="where")
        test = read()
        self._deep -= 1
        return test

    def _comparison(self, token: re.Match[str]) -> Test:
        name, sign, text = token["field"].lower(), token["sign"], token["value"].strip('"')
        field = FIELDS.get(name)
        if field is None:
            raise Invalid(
                f"no word {name!r} for a machine's parts",
                variable="where",
                fix=f"use one of {', '.join(FIELDS)}",
            )
        if field.base == 0:
            return _text_test(field, sign, text)
        if sign == "~":
            raise Invalid(f"{name} is a number: ~ looks into texts", variable="where")
        wanted, compare = _size(name, text, field.base), _SIGNS[sign]

        def test(found: Found) -> bool | None:
            value = field.read(found)
            return None if value is None else compare(value, wanted)

        return test

    def _broken(self, expected: str) -> Invalid:
        rest = self._text[self._at :].strip()[:40]
        return Invalid(
            f"where: {expected} is expected {f'at {rest!r}' if rest else 'at the end'}",
            variable="where",
            fix="for example: ram>=64G and disk>=1T and not vendor~supermicro",
        )


def _any(told: Sequence[bool | None]) -> bool | None:
    return True if True in told else None if None in told else False


def _all(told: Sequence[bool | None]) -> bool | None:
    return False if False in told else None if None in told else True


def _not(told: bool | None) -> bool | None:
    return None if told is None else not told


def _text_test(field: _Field, sign: str, text: str) -> Test:
    """Texts are compared without regard to case; `~` looks for a part."""
    wanted = text.casefold()
    if sign not in ("=", "==", "!=", "~"):
        raise Invalid(f"{sign} compares numbers, and {text!r} is asked of a text", variable="where")

    def test(found: Found) -> bool | None:
        value = field.read(found)
        if value is None:
            return None
        if sign == "~":
            return wanted in value.casefold()
        return (value.casefold() == wanted) is (sign != "!=")

    return test


def _size(name: str, text: str, base: int) -> float:
    read = _SIZE.match(text)
    if read is None or (base == 1 and read[2]):
        raise Invalid(f"{name}: {text!r} is no {'number' if base == 1 else 'size'}", variable="where")
    if base > 1 and not read[2]:
        raise Invalid(f"{name}: {text} of what?", variable="where", fix=f"give a unit, as in {name}>={text}G")
    return float(read[1]) * float(1024 if read[3] else base) ** _POWERS[read[2].upper()]
