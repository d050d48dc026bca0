"""The real Debian installer for the lab: its network boot kernel and initrd, from the distribution's own packages.

Owns a private apt configuration in the cache folder, so that an ordinary user gets the packages of another suite than
this machine's, with signatures checked, and the system's apt is not touched. The mirror is the one that this machine's
apt sources name. Knows nothing of profiles or preseeds.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError

SUITES = {"debian12": "bookworm", "debian13": "trixie"}
_SECTION = "main"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_IMAGES = "usr/lib/debian-installer/images"
_LIST_S, _FETCH_S = 300.0, 600.0


@dataclass(frozen=True, slots=True)
class DebianInstaller:
    """What boots the installer. `suite` is the distribution that it installs."""

    suite: str
    kernel: Path
    initrd: Path


def fetch_installer(release: str, cache: Path, *, mirror: str | None = None) -> DebianInstaller:
    """Return the installer of "debian12" or "debian13"; fetched once, then taken from `cache`.

    `mirror` is a Debian mirror's URL; by default the one of this machine's apt sources. Raises LabError.
    """
    try:
        suite = SUITES[release]
    except KeyError:
        raise LabError(
            f"no Debian installer for {release!r}", fix=f"use one of {', '.join(SUITES)}"
        ) from None
    folder = cache / f"{release}-installer"
    ready = DebianInstaller(suite, folder / "linux", folder / "initrd.gz")
    if folder.is_dir():
        return ready
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{release}-installer.lock"):
        if folder.is_dir():
            return ready
        with tempfile.TemporaryDirectory(dir=cache) as work:
            found = _unpack(release, suite, mirror or find_mirror(), Path(work))
            beside = Path(work, "finished")
            beside.mkdir()
            for name in ("linux", "initrd.gz"):
                shutil.copyfile(found / name, beside / name)
            beside.rename(folder)
    return ready


def find_mirror() -> str:
    """Return the Debian mirror that this machine's apt sources name, without a slash at the end. Raises LabError."""
    wanted = "$(REPO_URI) $(COMPONENT)"
    listed = _run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"], deadline_s=30)
    for line in listed.splitlines():
        uri, _, section = line.partition(" ")
        if section == _SECTION and re.fullmatch(r"https?://[^/]+(/[^/]+)*/debian/?", uri):
            return uri.rstrip("/")
    raise LabError("this machine's apt sources name no Debian mirror", fix="give a mirror's URL")


def _unpack(release: str, suite: str, mirror: str, work: Path) -> Path:
    """Fetch the installer's package into `work` and return the folder of its kernel."""
    root = work / "apt"
    for folder in ("etc/apt/apt.conf.d", "state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    (root / "etc/apt/sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} {_SECTION}\n")
    options = {
        "Dir::Etc": root / "etc/apt",
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",  # or apt, run by root, gives up rights that this folder asks for
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        "Acquire::Retries": "3",
    }
    apt = [
        "apt-get",
        "--quiet",
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]
    _run([*apt, "-o", "APT::Update::Error-Mode=any", "update"], deadline_s=_LIST_S)
    package = f"debian-installer-{release.removeprefix('debian')}-netboot-amd64"
    _run([*apt, "download", package], cwd=work, deadline_s=_FETCH_S)
    (archive,) = work.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(archive), str(work / "unpacked")], deadline_s=120)
    kernels = sorted((work / "unpacked" / _IMAGES).glob("*/amd64/text/debian-installer/amd64/linux"))
    if len(kernels) != 1:
        raise LabError(f"the package {package} holds no installer kernel where it is expected")
    return kernels[0].parent


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], *, deadline_s: float, cwd: Path | None = None) -> str:
    words = " ".join(word for word in command if not word.startswith("-") and "::" not in word)
    environment = {name: value for name, value in os.environ.items() if name != "APT_CONFIG"} | {
        "LC_ALL": "C"
    }
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=deadline_s, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not here", fix="use a Debian or Ubuntu machine") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{words} took more than {deadline_s:.0f} s") from error
    if done.returncode != 0:
        raise LabError(f"{words} failed", seen=" / ".join(done.stderr.strip().splitlines()[-3:]))
    return done.stdout
