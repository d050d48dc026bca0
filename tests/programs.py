"""Programs that tests ask for their opinion and that must not be installed: their packages would start daemons.

Downloads a Debian package with what it depends on and is missing here, and unpacks it beside; kept in the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.ramsystem import packages
from baremetal.ramsystem.architecture import Architecture

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baremetal-tests"


@dataclass(frozen=True, slots=True)
class Program:
    """A program below an unpacked root, with the libraries that came along."""

    path: str
    env: dict[str, str]


def unpacked(package: str, path: str) -> Program:
    """Return a program such as `usr/sbin/dhcpd` of a package; skips the test where it cannot be had.

    A package `NAME:arm64` comes alone: what it depends on would not run here.
    """
    root = _CACHE / package
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / path).exists():
            try:
                _unpack(package, root)
            except (OSError, subprocess.SubprocessError, LabError) as error:
                pytest.skip(f"{package} cannot be had: {error}")
    if not (root / path).exists():
        pytest.skip(f"{package} has no {path}")
    libraries = {str(file.parent) for file in root.rglob("*.so*")}
    return Program(
        str(root / path), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": ":".join(libraries)}
    )


def _unpack(package: str, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    name, _, architecture = package.partition(":")
    if architecture:
        apt = packages.Apt.of(Architecture(architecture), _CACHE / f"apt-{architecture}")
        files = apt.fetch(apt.locate([name]), root)
        packages.unpack(files, root)
        for file in files:
            file.unlink()
        return
    plan = _run("apt-get", "install", "--simulate", "--no-install-recommends", "-q", package, cwd=root)
    names = re.findall(r"^Inst ([a-z0-9][a-z0-9+.-]*)", plan, re.MULTILINE)
    _run("apt-get", "download", "-q", *(names or [package]), cwd=root)
    for file in root.glob("*.deb"):
        _run("dpkg-deb", "-x", file.name, ".", cwd=root)
        file.unlink()


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout
