"""Debian packages as building material: found, fetched and unpacked as an ordinary user, never installed.

Owns the conversation with apt-get, apt-cache and dpkg-deb. Knows nothing of what is built from them. Sources, suites
and trust are this machine's own apt configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError

_URI = re.compile(r"^'[^']+' (?P<file>\S+) (?P<size>\d+) (?P<digest>\S*)$")
_DEPENDS = re.compile(r"^\s*Depends: (?P<name>[a-z0-9][a-z0-9+.-]*)$")


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package at the version apt would fetch now; `digest` is the archive's own, so it names the content."""

    name: str
    file: str
    digest: str


def depends_of(*names: str) -> dict[str, list[str]]:
    """Name the packages that each of `names` directly depends on; virtual ones are left out."""
    found: dict[str, list[str]] = {name: [] for name in names}
    current = ""
    for line in _run(["apt-cache", "depends", "--important", *names]).splitlines():
        if line in found:
            current = line
        elif current and (match := _DEPENDS.match(line)):
            found[current].append(match["name"])
    return found


def locate(names: Sequence[str]) -> tuple[Package, ...]:
    """Ask apt which files it would fetch for `names`; fetches nothing. Raises LabError when apt has no lists."""
    with tempfile.TemporaryDirectory() as empty:  # apt leaves out what already lies in the current folder
        listing = _run(["apt-get", "--print-uris", "download", *names], cwd=Path(empty))
    found = [
        Package(match["file"].split("_", 1)[0], match["file"], match["digest"])
        for line in listing.splitlines()
        if (match := _URI.match(line))
    ]
    missing = set(names) - {package.name for package in found}
    if missing:
        raise LabError(f"apt has no package {', '.join(sorted(missing))}", fix="run: apt-get update")
    return tuple(sorted(found, key=lambda package: package.name))


def fetch(packages: Sequence[Package], folder: Path) -> tuple[Path, ...]:
    """Fetch `packages` into `folder`, each checked by apt against its signed lists; what is there and right stays."""
    folder.mkdir(parents=True, exist_ok=True)
    _run(
        ["apt-get", "--quiet", "download", *(package.name for package in packages)],
        cwd=folder,
        deadline_s=900,
    )
    files = tuple(folder / package.file for package in packages)
    for file in files:
        if not file.is_file():
            raise LabError(f"apt-get download did not bring {file.name}", fix="run: apt-get update")
    return files


def unpack(files: Sequence[Path], folder: Path) -> None:
    """Unpack package files over each other into `folder`; no maintainer script runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        _run(["dpkg-deb", "--extract", str(file), str(folder)])


def _run(command: list[str], *, cwd: Path | None = None, deadline_s: float = 120) -> str:
    fix = "run: apt-get update"
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(
            f"{command[0]} is not here",
            fix="the tiny system is built from Debian packages: use a Debian or Ubuntu machine",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command[:2])} took more than {deadline_s:.0f} s", fix=fix) from error
    if done.returncode != 0:
        seen = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise LabError(f"{' '.join(command[:2])} failed", seen=seen, fix=fix)
    return done.stdout
