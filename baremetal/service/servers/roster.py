"""Many servers from one file: CSV with a heading, or YAML. All rows are read before anything is said.

The columns of a CSV are the fields of an enrolment; `mac` may hold several, separated by blanks; any other column that
is a variable's name sets that variable; `tag:KEY` and `var:KEY` columns set tags and variables of your own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from baremetal.errors import BaremetalError, Invalid
from baremetal.netboot.variables import DEFAULTS
from baremetal.service.servers.enrolment import Enrolment

MOST = 10_000
_FIELDS = {field.name for field in fields(Enrolment)}
_LISTS = {"macs", "quirks"}
_FLAGS = {"verify", "adopt"}
_MAPS = {"vars", "tags"}
# A column of this name sets the server's own field, not the variable.
_ALIAS = {"mac": "macs", "quirk": "quirks"}


class InvalidRows(Invalid):
    """Several rows are wrong; `rows` holds one error for each, by row number."""

    def __init__(self, problems: list[tuple[int, str, BaremetalError]], total: int) -> None:
        error = problems[0][2]
        super().__init__(
            f"{len(problems)} of {total} servers cannot be taken, so none was",
            code=error.code,
            seen="; ".join(
                f"row {row}{f' ({who})' if who else ''}: {what}" for row, who, what in problems[:10]
            ),
        )
        self.rows = [{"row": row, "name": who, **what.as_dict()} for row, who, what in problems]

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"rows": self.rows}


def parse(text: str, form: str) -> list[Enrolment]:
    """Read a roster, `form` being csv or yaml. Raises Invalid, or InvalidRows naming each wrong row."""
    rows = _csv(text) if form == "csv" else _yaml(text)
    if not rows:
        raise Invalid("there is no server in the file")
    if len(rows) > MOST:
        raise Invalid(f"more than {MOST} servers in one file")
    found: list[Enrolment] = []
    problems: list[tuple[int, str, BaremetalError]] = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_enrolment(row))
        except BaremetalError as error:
            problems.append((number, str(row.get("name") or ""), error))
    if problems:
        raise InvalidRows(problems, len(rows))
    return found


def _csv(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")), skipinitialspace=True, strict=True)
    rows: list[dict[str, Any]] = []
    try:
        for line in reader:
            if None in line:
                raise Invalid("the line has more columns than the heading", line=reader.line_num)
            given = {key.strip(): (value or "").strip() for key, value in line.items()}
            if any(given.values()):
                rows.append({key: value for key, value in given.items() if value})
    except csv.Error as error:
        raise Invalid(f"not CSV: {error}", line=reader.line_num) from error
    return [_spread(row) for row in rows]


def _spread(row: dict[str, str]) -> dict[str, Any]:
    """Put the flat columns of a CSV where they belong."""
    out: dict[str, Any] = {"vars": {}, "tags": {}}
    for column, value in row.items():
        name = _ALIAS.get(column, column)
        if column.startswith("tag:"):
            out["tags"][column[4:]] = value
        elif column.startswith("var:"):
            out["vars"][column[4:]] = value
        elif name in _LISTS:
            out[name] = value.replace(",", " ").split()
        elif name in _FIELDS and name not in _MAPS:
            out[name] = value
        elif name in DEFAULTS:
            out["vars"][name] = value
        else:
            out[name] = value  # refused below, with the nearest name
    return out


def _yaml(text: str) -> list[dict[str, Any]]:
    import yaml  # here: most services never read one

    try:
        # Texts only, no guessing: YAML reads 52:54:00:00:00:01 as a number in base 60, and `no` as false.
        given = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Invalid("not YAML", line=mark.line + 1 if mark is not None else None) from None
    if isinstance(given, Mapping):
        given = given.get("servers")
    if not isinstance(given, list) or not all(isinstance(row, Mapping) for row in given):
        raise Invalid("expected a list of servers, or a mapping with the key 'servers'")
    return [{_ALIAS.get(str(key), str(key)): value for key, value in row.items()} for row in given]


def _enrolment(row: Mapping[str, Any]) -> Enrolment:
    given: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _FIELDS:
            near = get_close_matches(name, [*_FIELDS, *DEFAULTS, "mac"], n=1)
            raise Invalid(
                f"unknown column {name!r}",
                variable=name,
                fix=f"did you mean {near[0]!r}?" if near else "write var:NAME for a variable of your own",
            )
        given[name] = _value(name, value)
    for needed in ("name", "bmc"):
        if not given.get(needed):
            raise Invalid(f"the {needed} is missing", variable=needed)
    return Enrolment(**given)


def _value(name: str, value: Any) -> Any:
    if name in _LISTS:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise Invalid(f"{name} is a list of texts", variable=name)
        return tuple(values)
    if name in _MAPS:
        if not isinstance(value, Mapping):
            raise Invalid(f"{name} is a mapping", variable=name)
        return {str(key): _text(name, item) for key, item in value.items()}
    if name in _FLAGS:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        flag = value if isinstance(value, bool) else words.get(str(value).lower())
        if flag is None:
            raise Invalid(f"{name} is yes or no", variable=name)
        return flag
    return _text(name, value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise Invalid(f"{name} is not a text", variable=name)
