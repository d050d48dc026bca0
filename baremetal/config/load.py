"""Reads the sources in their order, merges them, and words what is wrong with the place where it stands.

Knows nothing of what a setting means.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from baremetal.config.lines import find_line
from baremetal.config.settings import PREFIX, Config, is_loopback
from baremetal.errors import Invalid

SYSTEM_FILE = Path("/etc/baremetal/config.toml")
LOCAL_FILE = Path("config.toml")
CODE = "BM506"


def load(
    path: Path | None = None,
    *,
    system: Path = SYSTEM_FILE,
    local: Path = LOCAL_FILE,
) -> Config:
    """Read and validate the settings. Raises Invalid naming file and line, or the environment variable."""
    shipped = _shipped_file()
    sources: list[_Source] = []
    if shipped is not None:
        sources.append(_Source.read(shipped, only="profile"))
    if path is not None:
        if not path.is_file():
            raise Invalid(f"there is no configuration file {path}", code=CODE)
        sources.append(_Source.read(path))
    else:
        sources += [_Source.read(file) for file in (system, local) if file.is_file()]
    for source in sources:
        source.check_keys()
    _check_environment(os.environ)
    merged: dict[str, Any] = {}
    for source in sources:
        _merge(merged, source.table)
    try:
        config = Config(**merged)
    except ValidationError as error:
        raise _explain(error, sources) from None
    except SettingsError as error:
        raise Invalid(f"environment: {error}", code=CODE) from None
    _check_together(config, sources)
    return config


class _Source:
    """One TOML file, able to say on which line a key stands."""

    def __init__(self, file: Path, text: str, table: dict[str, Any]) -> None:
        self.file = file
        self.text = text
        self.table = table

    @classmethod
    def read(cls, file: Path, *, only: str | None = None) -> _Source:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"cannot be read: {error}", code=CODE, file=str(file)) from error
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"\(at line (\d+)", str(error))
            line = int(at[1]) if at else len(text.splitlines())
            what = re.sub(r" \(at [^)]*\)$", "", str(error))
            raise Invalid(f"not TOML: {what}", code=CODE, file=str(file), line=line) from error
        if only is not None:
            table = {only: table.get(only, {})}
        _resolve_paths(table, file.absolute().parent)
        return cls(file, text, table)

    def check_keys(self) -> None:
        for keys, known in _unknown_keys(Config, self.table):
            raise Invalid(
                f"unknown key {'.'.join(keys)!r}" + _did_you_mean(keys[-1], known),
                code=CODE,
                file=str(self.file),
                line=find_line(self.text, keys),
                fix=None
                if get_close_matches(keys[-1], known, n=1)
                else f"known here: {', '.join(sorted(known))}",
            )

    def has(self, keys: Sequence[str]) -> bool:
        table: Any = self.table
        for key in keys:
            if isinstance(table, list) and key.isdecimal() and int(key) < len(table):
                table = table[int(key)]
            elif isinstance(table, Mapping) and key in table:
                table = table[key]
            else:
                return False
        return True


def _shipped_file() -> Path | None:
    """Find the `config.toml` that came with the program: package data of a wheel, else the top of a checkout."""
    here = Path(__file__).parents[1]
    for file in (here / "_data" / "config.toml", here.parent / "config.toml"):
        if file.is_file():
            return file
    return None


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


_PATHS = (
    ("server", "data_dir"),
    ("server", "templates_dir"),
    ("server", "control_tls_cert"),
    ("server", "control_tls_key"),
    ("security", "key_file"),
    ("security", "token_file"),
)


def _resolve_paths(table: Mapping[str, Any], folder: Path) -> None:
    """Make paths absolute, in place: in a file they are relative to that file, and `~` is the home."""
    for section, key in _PATHS:
        values = table.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str) and values[key]:
            values[key] = str(folder / Path(values[key]).expanduser())


# ---- what is wrong, and where -------------------------------------------------------------------------------


def _unknown_keys(
    model: type[BaseModel], table: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield each key that `model` does not have, with the keys that it does have at that place."""
    for key, value in table.items():
        keys = (*above, key)
        field = model.model_fields.get(key)
        if field is None:
            yield keys, list(model.model_fields)
            continue
        if isinstance(value, list) and get_origin(field.annotation) is list:
            of = get_args(field.annotation)[0]
            if isinstance(of, type) and issubclass(of, BaseModel):
                for number, entry in enumerate(value):
                    if isinstance(entry, Mapping):
                        yield from _unknown_keys(of, entry, (*keys, str(number)))
        if not isinstance(value, Mapping):
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _unknown_keys(field.annotation, value, keys)
        elif get_origin(field.annotation) is dict:
            of = get_args(field.annotation)[1]
            if isinstance(of, type) and issubclass(of, BaseModel):
                for name, entry in value.items():
                    if isinstance(entry, Mapping):
                        yield from _unknown_keys(of, entry, (*keys, name))


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _check_environment(environ: Mapping[str, str]) -> None:
    """Refuse a nested variable (`BAREMETAL_SERVER__…`) that names no key; others may belong to the command line."""
    for name in environ:
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        keys = name.removeprefix(PREFIX).lower().split("__")
        table: dict[str, Any] = {}
        inner = table
        for key in keys[:-1]:
            inner[key] = inner = {}
        inner[keys[-1]] = ""
        for unknown, known in _unknown_keys(Config, table):
            near = get_close_matches(unknown[-1], known, n=1)
            hint = f", did you mean {PREFIX}{'__'.join((*unknown[:-1], near[0])).upper()}?" if near else ""
            raise Invalid(f"environment variable {name} names no setting{hint}", code=CODE, variable=name)


def _explain(error: ValidationError, sources: Sequence[_Source]) -> Invalid:
    """Word the first complaint of pydantic as ours, at the place where the value was given."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    keys = tuple(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    dotted = ".".join(keys)
    if first["type"] == "missing":
        what = "is missing"
    for n in range(len(keys), 0, -1):
        variable = PREFIX + "__".join(keys[:n]).upper()
        if variable in os.environ:
            return Invalid(
                f"{dotted}: {what}", code=CODE, file=f"environment variable {variable}", variable=variable
            )
        for source in reversed(sources):
            if source.has(keys[:n]):
                return Invalid(
                    f"{dotted}: {what}",
                    code=CODE,
                    file=str(source.file),
                    line=find_line(source.text, keys[:n]),
                )
    return Invalid(f"{dotted}: {what}", code=CODE)


def _check_together(config: Config, sources: Sequence[_Source]) -> None:
    """Refuse what is right by itself and wrong together."""

    def refuse(keys: tuple[str, ...], what: str, fix: str) -> Invalid:
        for source in reversed(sources):
            if source.has(keys):
                line = find_line(source.text, keys)
                return Invalid(what, code=CODE, file=str(source.file), line=line, fix=fix)
        return Invalid(what, code=CODE, fix=fix)

    server = config.server
    if bool(server.control_tls_cert) != bool(server.control_tls_key):
        raise refuse(
            ("server", "control_tls_cert"),
            "server.control_tls_cert and server.control_tls_key go together, and one is missing",
            "set both, or neither",
        )
    if not is_loopback(server.control_listen) and not (
        server.control_tls_cert or config.security.allow_public_control
    ):
        raise refuse(
            ("server", "control_listen"),
            f"the control app would answer on {server.control_listen} without TLS",
            "set control_tls_cert and control_tls_key, or say security.allow_public_control = true",
        )
    dhcp = config.dhcp
    if dhcp.mode == "external":
        return
    if not dhcp.subnet:
        raise refuse(
            ("dhcp", "mode"),
            f'dhcp.mode is "{dhcp.mode}" and there is no [[dhcp.subnet]]',
            'add one with range and mask, or set mode = "external"',
        )
    for number, subnet in enumerate(dhcp.subnet):
        here = ("dhcp", "subnet", str(number))
        if not (subnet.interface or dhcp.interface):
            raise refuse(
                here,
                f"no interface is named on which {subnet.network} is heard",
                'set [dhcp] interface, as in interface = "eth1"',
            )
        if dhcp.mode == "proxy" and subnet.relay:
            raise refuse(
                here,
                f"{subnet.network} is behind a relay, where a proxy is not heard",
                "have the relay's DHCP server name us (baremetal print-config), or give the addresses ourselves",
            )
        for other in dhcp.subnet[:number]:
            if subnet.network.overlaps(other.network):
                raise refuse(here, f"{subnet.network} overlaps {other.network}", "give each segment once")
