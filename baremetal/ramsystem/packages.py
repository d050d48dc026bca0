"""Debian packages as building material: found, fetched and unpacked as an ordinary user, never installed.

Owns the conversation with apt-get, apt-cache and dpkg-deb. Knows nothing of what is built from them. Sources, suites
and trust are this machine's own apt configuration.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.ramsystem.architecture import Architecture

_URI = re.compile(r"^'[^']+' (?P<file>\S+) (?P<size>\d+) (?P<digest>\S*)$")
_DEPENDS = re.compile(r"^\s*Depends: (?P<name>[a-z0-9][a-z0-9+.-]*)$")
_LIBRARY = re.compile(r"(lib|zlib)")
_DAY_S = 24 * 3600.0
_LISTS_S, _FETCH_S = 300.0, 900.0


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package at the version apt would fetch now; `digest` is the archive's own, so it names the content."""

    name: str
    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class Apt:
    """This machine's apt. `options` come first in every command."""

    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, architecture: Architecture, folder: Path) -> Apt:
        """Return an apt for packages of this architecture; one that is not the machine's own has its lists in `folder`.

        The lists are fetched at most once a day; older ones serve while they cannot be. Raises LabError without any.
        """
        if _run(["dpkg", "--print-architecture"]).strip() == architecture.debian:
            return cls()
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        status = folder / "status"  # nothing is installed, so that nothing of this machine matters
        status.touch()
        options = {
            "APT::Architecture": architecture.debian,
            "APT::Architectures": architecture.debian,
            "APT::Sandbox::User": "root",  # or apt, run by root, gives up rights that this folder asks for
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Acquire::Retries": "3",
            "Dir::State": folder / "state",
            "Dir::State::status": status,
            "Dir::Cache": folder / "cache",
        }
        apt = cls(tuple(word for key, value in options.items() for word in ("-o", f"{key}={value}")))
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            apt._refresh(folder / "refreshed")
        return apt

    def _refresh(self, stamp: Path) -> None:
        if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < _DAY_S:
            return
        try:
            self._get("update", "-o", "APT::Update::Error-Mode=any", deadline_s=_LISTS_S)
        except LabError:
            if not stamp.exists():
                raise
        else:
            stamp.touch()

    def depends_of(self, *names: str) -> dict[str, list[str]]:
        """Name the packages that each of `names` directly depends on; virtual ones are left out."""
        found: dict[str, list[str]] = {name: [] for name in names}
        current = ""
        listing = _run(["apt-cache", *self.options, "depends", "--important", *names])
        for line in listing.splitlines():
            if line in found:
                current = line
            elif current and (match := _DEPENDS.match(line)):
                found[current].append(match["name"])
        return found

    def libraries_of(self, *programs: str) -> set[str]:
        """Name every library that these packages need, and those that the libraries need."""
        found: set[str] = set()
        asked = set(programs)
        while asked:
            needed = {name for names in self.depends_of(*sorted(asked)).values() for name in names}
            asked = {name for name in needed if _LIBRARY.match(name)} - found
            found |= asked
        return found

    def locate(self, names: Sequence[str]) -> tuple[Package, ...]:
        """Ask which files would be fetched for `names`; fetches nothing. Raises LabError when there are no lists."""
        with tempfile.TemporaryDirectory() as empty:  # apt leaves out what already lies in the current folder
            listing = self._get("--print-uris", "download", *names, cwd=Path(empty))
        found = [
            Package(match["file"].split("_", 1)[0], match["file"], match["digest"])
            for line in listing.splitlines()
            if (match := _URI.match(line))
        ]
        missing = set(names) - {package.name for package in found}
        if missing:
            raise LabError(f"apt has no package {', '.join(sorted(missing))}", fix="run: apt-get update")
        return tuple(sorted(found, key=lambda package: package.name))

    def fetch(self, packages: Sequence[Package], folder: Path) -> tuple[Path, ...]:
        """Fetch `packages` into `folder`, each checked against apt's signed lists; what is there and right stays."""
        folder.mkdir(parents=True, exist_ok=True)
        names = [package.name for package in packages]
        self._get("--quiet", "download", *names, cwd=folder, deadline_s=_FETCH_S)
        files = tuple(folder / package.file for package in packages)
        for file in files:
            if not file.is_file():
                raise LabError(f"apt-get download did not bring {file.name}", fix="run: apt-get update")
        return files

    def _get(self, *words: str, cwd: Path | None = None, deadline_s: float = 120) -> str:
        return _run(["apt-get", *words, *self.options], cwd=cwd, deadline_s=deadline_s)


def unpack(files: Sequence[Path], folder: Path) -> None:
    """Unpack package files over each other into `folder`; no maintainer script runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        _run(["dpkg-deb", "--extract", str(file), str(folder)])
    modules = folder / "lib/modules"
    if not modules.exists() and (folder / "usr/lib/modules").is_dir():  # where Debian 13 has them
        modules.parent.mkdir(exist_ok=True)
        modules.symlink_to("../usr/lib/modules")


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
            fix="small systems are built from Debian packages: use a machine that runs Debian",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command[:2])} took more than {deadline_s:.0f} s", fix=fix) from error
    if done.returncode != 0:
        seen = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise LabError(f"{' '.join(command[:2])} failed", seen=seen, fix=fix)
    return done.stdout
