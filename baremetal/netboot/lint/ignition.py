"""What an Ignition config must be, by the specification 3.0 to 3.5, and what it may not do before go.

Owns the structure of the sections in use and the rule that a config partitions nothing: Ignition runs before anything
can ask, so a disk is written by the script that it starts. Deliberately unknown: what the files in it hold, but for
shell.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from baremetal.netboot.lint.finding import Finding

_SECTIONS: Mapping[str, frozenset[str]] = {
    "ignition": frozenset(("version", "config", "timeouts", "security", "proxy")),
    "storage": frozenset(("disks", "raid", "filesystems", "files", "directories", "links", "luks")),
    "systemd": frozenset(("units",)),
    "passwd": frozenset(("users", "groups")),
    "kernelArguments": frozenset(("shouldExist", "shouldNotExist")),
}
_FILE = frozenset(("path", "overwrite", "contents", "append", "mode", "user", "group"))
_DISK = frozenset(("device", "wipeTable", "partitions"))
_UNIT = frozenset(("name", "enabled", "mask", "contents", "dropins"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_USER = _words(
    """
    name passwordHash sshAuthorizedKeys uid gecos homeDir noCreateHome primaryGroup groups noUserGroup
    noLogInit shell shouldExist system
    """
)
_SCHEMES = ("http://", "https://", "data:", "tftp://", "s3://", "arn:", "gs://")
_UNIT_NAME = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)\Z"
)


def ignition_rules(text: str, file: str) -> Iterator[Finding]:
    """Check a rendered Ignition config."""
    try:
        whole = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        yield Finding.problem(file, line, f"not JSON: {error}")
        return
    if not isinstance(whole, dict):
        yield Finding.problem(file, 1, "an Ignition config is a JSON object")
        return

    def wrong(message: str, word: str = "") -> Finding:
        found = (number for number, line in enumerate(text.splitlines(), 1) if word and word in line)
        return Finding.problem(file, next(found, None), message)

    version = str(_map(whole.get("ignition")).get("version", ""))
    if not re.fullmatch(r"3\.[0-5]\.0", version):
        yield wrong(f"ignition.version is 3.0.0 to 3.5.0, not {version or 'missing'}", "version")
    for section, body in whole.items():
        if section not in _SECTIONS:
            yield wrong(f"Ignition has no section {section}", section)
            continue
        for key in set(_map(body)) - _SECTIONS[section]:
            yield wrong(f"{section} has no key {key}", key)
    storage = _map(whole.get("storage"))
    for disk in map(_map, _list(storage.get("disks"))):
        device = str(disk.get("device", ""))
        yield from (wrong(f"a disk has no key {key}", key) for key in set(disk) - _DISK)
        if not device.startswith("/dev/") or any(sign in device for sign in "*?["):
            yield wrong(f"a disk is named by a path below /dev, not by {device!r}", "disks")
        if disk.get("wipeTable"):
            yield wrong(f"wipeTable clears {device} before anything has asked for go", "wipeTable")
        elif disk.get("partitions"):
            yield wrong(f"{device} is partitioned before anything has asked for go", "partitions")
    for filesystem in map(_map, _list(storage.get("filesystems"))):
        if filesystem.get("wipeFilesystem"):
            yield wrong(
                f"{filesystem.get('device')} is formatted before anything has asked for go", "wipeFilesystem"
            )
    paths: set[str] = set()
    for entry in map(_map, _list(storage.get("files"))):
        path = str(entry.get("path", ""))
        yield from (wrong(f"a file has no key {key}", key) for key in set(entry) - _FILE)
        if not path.startswith("/") or ".." in path.split("/"):
            yield wrong(f"a file's path is absolute: {path!r}", "path")
        if path in paths:
            yield wrong(f"{path} is there twice", path)
        paths.add(path)
        mode = entry.get("mode", 0)
        if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
            yield wrong(f"{path}: the mode is a decimal number up to 4095, not {mode!r}", "mode")
        source = _map(entry.get("contents")).get("source", "data:,")
        if not isinstance(source, str) or not source.startswith(_SCHEMES):
            yield wrong(f"{path}: Ignition does not fetch from {str(source)[:40]!r}", "source")
    for unit in map(_map, _list(_map(whole.get("systemd")).get("units"))):
        yield from (wrong(f"a unit has no key {key}", key) for key in set(unit) - _UNIT)
        if not _UNIT_NAME.match(str(unit.get("name", ""))):
            yield wrong(f"not a unit's name: {unit.get('name')!r}", "units")
    for user in map(_map, _list(_map(whole.get("passwd")).get("users"))):
        yield from (wrong(f"a user has no key {key}", key) for key in set(user) - _USER)
        if not user.get("name"):
            yield wrong("a user has no name", "users")


def scripts_within(text: str) -> Iterator[tuple[str, str]]:
    """Yield the shell scripts that a config carries in itself, by path."""
    try:
        whole = json.loads(text)
    except ValueError:
        return
    for entry in map(_map, _list(_map(_map(whole).get("storage")).get("files"))):
        source = str(_map(entry.get("contents")).get("source", ""))
        found = re.match(r"data:[^,]*?(;base64)?,(.*)\Z", source, re.S)
        if not found:
            continue
        try:
            content = base64.b64decode(found[2]).decode() if found[1] else unquote(found[2])
        except (binascii.Error, UnicodeDecodeError):
            continue
        if content.startswith("#!/bin/sh"):
            yield str(entry.get("path", "")), content


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
