"""What an autoinstall file must be: the structure of the keys that are in use, one named disk, no question asked.

Owns these checks, written from the installer's reference manual. Its own JSON schema is GPL and is not here; where the
installer's validator is installed, checkers.py runs it. Deliberately unknown: the scripts that the file fetches.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from baremetal.netboot.lint.finding import Finding

# Key and what it holds; None where anything may stand.
_KEYS: Mapping[str, type | tuple[type, ...] | None] = {
    "version": int,
    "interactive-sections": list,
    "early-commands": list,
    "late-commands": list,
    "error-commands": list,
    "locale": str,
    "refresh-installer": dict,
    "keyboard": dict,
    "source": dict,
    "network": dict,
    "proxy": (str, type(None)),
    "apt": dict,
    "storage": dict,
    "identity": dict,
    "active-directory": dict,
    "ubuntu-pro": dict,
    "ssh": dict,
    "codecs": dict,
    "drivers": dict,
    "oem": dict,
    "snaps": list,
    "debconf-selections": str,
    "packages": list,
    "kernel": dict,
    "kernel-crash-dumps": dict,
    "timezone": str,
    "updates": str,
    "shutdown": str,
    "reporting": dict,
    "user-data": dict,
    "zdevs": list,
}
_MATCH = frozenset(
    ("serial", "path", "id_path", "devpath", "model", "vendor", "size", "ssd", "install-media")
)
_NAMES_ONE = frozenset(("serial", "path", "id_path", "devpath"))
_NETPLAN = frozenset(("version", "renderer", "ethernets", "bonds", "bridges", "vlans", "wifis"))


def autoinstall_rules(text: str, file: str) -> Iterator[Finding]:
    """Check a rendered user-data file."""
    import yaml  # here: the service imports this module when it starts, and may have no such profile

    def error(message: str, *words: str) -> Finding:
        return Finding.problem(file, _line(text, *words), message)

    if not text.startswith("#cloud-config"):
        yield Finding.problem(file, 1, "user-data begins with #cloud-config, or cloud-init passes it over")
    try:
        whole = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        what = getattr(problem, "problem", None) or "not YAML"
        yield Finding.problem(file, mark.line + 1 if mark else None, f"not YAML: {what}")
        return
    found = whole.get("autoinstall") if isinstance(whole, dict) else None
    if not isinstance(found, dict):
        yield Finding.problem(file, None, "there is no map autoinstall: the installer would ask everything")
        return
    for key, value in found.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            yield error(
                f"autoinstall has no key {key}" + (f"; did you mean {near[0]}?" if near else ""), str(key)
            )
            continue
        wanted = _KEYS[key]
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            yield error(f"autoinstall.{key} is a {type(value).__name__}", key)
    if found.get("version") != 1:
        yield error("autoinstall.version is 1", "version")
    if found.get("interactive-sections"):
        yield error("interactive-sections would stop at a question", "interactive-sections")
    if "identity" not in found and "user-data" not in found:
        yield error("neither identity nor user-data: the installer would ask for a user")
    if found.get("shutdown", "reboot") not in ("reboot", "poweroff"):
        yield error("shutdown is reboot or poweroff", "shutdown")
    for key in ("early-commands", "late-commands", "error-commands"):
        for command in _list(found.get(key)):
            if not isinstance(command, str) and not (
                isinstance(command, list) and all(isinstance(word, str) for word in command)
            ):
                yield error(f"{key}: a command is text, or a list of words", key)
    identity = found.get("identity")
    if (
        isinstance(identity, dict)
        and identity.get("password")
        and not str(identity["password"]).startswith("$")
    ):
        yield error("identity.password is a hash, never a password in the open", "password")
    yield from _storage(found.get("storage"), text, file)
    yield from _network(found.get("network"), text, file)


def _storage(storage: Any, text: str, file: str) -> Iterator[Finding]:
    line = _line(text, "storage:")
    if not isinstance(storage, dict):
        yield Finding.problem(file, None, "no storage: the installer would take the largest disk; match one")
        return
    layout = storage.get("layout")
    disks = [
        item for item in _list(storage.get("config")) if isinstance(item, dict) and item.get("type") == "disk"
    ]
    if isinstance(layout, dict):
        match = layout.get("match")
        if not isinstance(match, dict) or not match:
            message = "storage.layout without match takes the largest disk, whichever that is: match one"
            yield Finding.problem(file, line, message)
        else:
            yield from _match(match, line, file)
    elif not disks:
        yield Finding.problem(file, line, "storage names neither a layout nor disks")
    for disk in disks:
        match = disk.get("match")
        if isinstance(match, dict) and match:
            yield from _match(match, line, file)
        elif not disk.get("serial") and not disk.get("path") and not disk.get("preserve"):
            message = f"the disk {disk.get('id', '?')} has no serial, path or match: any disk may be taken"
            yield Finding.problem(file, line, message)


def _match(match: Mapping[str, Any], line: int | None, file: str) -> Iterator[Finding]:
    for key in match:
        if key not in _MATCH:
            yield Finding.problem(file, line, f"a disk cannot be matched by {key}")
    if not _NAMES_ONE & set(match):
        message = "a match by serial or path means one disk; this one takes what sorts first"
        yield Finding.problem(file, line, message)
    for key in _NAMES_ONE & set(match):
        if any(sign in str(match[key]) for sign in "*?["):
            yield Finding.problem(file, line, f"a pattern in {key} may fit several disks")


def _network(network: Any, text: str, file: str) -> Iterator[Finding]:
    if not isinstance(network, dict):
        return
    line = _line(text, "network:")
    if network.get("version") != 2:
        yield Finding.problem(file, line, "network.version is 2")
    for key in network:
        if key not in _NETPLAN:
            yield Finding.problem(file, line, f"netplan has no section {key}")
    devices = {
        name for kind in _NETPLAN - {"version", "renderer"} for name in (network.get(kind) or {}) if name
    }
    for kind in ("bonds", "bridges"):
        for name, device in (network.get(kind) or {}).items():
            for port in _list(device.get("interfaces") if isinstance(device, dict) else None):
                if port not in devices:
                    yield Finding.problem(file, line, f"{name} is made of {port}, which is not there")
    for name, device in (network.get("vlans") or {}).items():
        if not isinstance(device, dict) or device.get("link") not in devices or "id" not in device:
            yield Finding.problem(file, line, f"{name} needs an id and a link to a device that is there")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _line(text: str, *words: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if words and all(word in line for word in words):
            return number
    return None
