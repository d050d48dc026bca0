"""Looking for problems before somebody trips over them; each one found says how to mend it.

Reads only: a BMC is asked who it is, never told anything. What is checked comes from the same objects that do the work.
"""

from __future__ import annotations

import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from baremetal.drivers.base import BmcCredentials, BmcUrl
from baremetal.engine.engine import Engine
from baremetal.errors import BaremetalError
from baremetal.lifecycle.moves import current_step
from baremetal.netboot.lint.checkers import find_program
from baremetal.service.advice.finding import Finding
from baremetal.service.advice.segments import Segments
from baremetal.service.deploys.pairing import Pairing
from baremetal.service.media.loaders import Loaders
from baremetal.service.profiles import Profiles
from baremetal.service.servers.servers import find
from baremetal.store.records import ServerRecord
from baremetal.store.store import Store

USUAL = ("undionly.kpxe", "ipxe.efi", "snponly.efi", "pxelinux.0", "lpxelinux.0", "bootx64.efi")
# Firmware and kernel keep some for themselves: a machine with 1 GiB shows about 970 MiB.
LEAST_MEMORY_MIB = 1100
LEAST_FREE = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where this installation is: its folders and addresses."""

    data_dir: Path
    public_url: str
    secrets: Sequence[Path]


class Doctor:
    """Examines the installation, and one server when asked. Slow: give it a thread of its own."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        profiles: Profiles,
        place: Place,
        loaders: Loaders,
        segments: Segments,
        *,
        is_frozen: Callable[[BmcUrl, BmcCredentials], bool],
        blocked_s: Callable[[BmcUrl], float],
        now: Callable[[], datetime],
        pairing: Pairing | None = None,
        wanted: Sequence[str] = (),
        storage: Callable[[], list[Finding]] = list,
    ) -> None:
        """`wanted`: the loaders that the settings name, and that machines will therefore ask for."""
        self._storage = storage
        self._loaders = loaders
        self._pairing = pairing
        self._segments = segments
        self._wanted = tuple(wanted)
        self._store = store
        self._engine = engine
        self._profiles = profiles
        self._place = place
        self._is_frozen = is_frozen
        self._blocked_s = blocked_s
        self._now = now

    def alive(self) -> None:
        """Raise Unavailable where the database does not answer."""
        self._store.last_history_id()

    def examine(self, name: str | None = None) -> dict[str, Any]:
        """Look at everything, or at one server with its BMC. Never raises for what it finds, but Unknown for a name."""
        if name is not None:
            found = self._server(find(self._store, name), ask=True)
        else:
            found = [
                *self._own(),
                *self._segments.examine(),
                *self._segments.examine_tftp(),
                *self._tools(),
                *self._missing_loaders(),
                *self._media(),
                *self._storage(),
            ]
            for record in self._store.servers():
                found += [finding for finding in self._server(record, ask=False) if not finding.ok]
        return {
            "ok": all(finding.ok is not False for finding in found),
            "checks": [
                {"name": f.name, "ok": f.ok, "what": f.what, "code": f.code, "fix": f.fix} for f in found
            ],
        }

    # -- the installation --

    def _own(self) -> list[Finding]:
        found = [self._database(), *self._folder(), self._public_url()]
        for path in self._place.secrets:
            if path.exists() and path.stat().st_mode & 0o077:
                found.append(
                    Finding("secrets", False, f"{path} can be read by others", fix=f"chmod 600 {path}")
                )
        return found

    def _database(self) -> Finding:
        try:
            self.alive()
        except BaremetalError as error:
            return Finding("database", False, str(error), error.code, "see the service's log")
        return Finding("database", True, "answers")

    def _folder(self) -> list[Finding]:
        folder = self._place.data_dir
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return [
                Finding(
                    "data directory", False, f"{folder}: {error.strerror}", fix="create it, or set data_dir"
                )
            ]
        if not os.access(folder, os.W_OK):
            return [
                Finding(
                    "data directory",
                    False,
                    f"{folder} cannot be written",
                    fix=f"chown it to uid {os.geteuid()}",
                )
            ]
        if free < LEAST_FREE:
            text = f"{folder} has {free // 1024**2} MiB left"
            return [Finding("data directory", False, text, fix="free some space: the history lives there")]
        return [Finding("data directory", True, f"{folder}, {free // 1024**3} GiB free")]

    def _public_url(self) -> Finding:
        url = self._place.public_url
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{url}/boot.ipxe", timeout=5) as answer:
                ours = answer.read(64).startswith(b"#!ipxe")
        except (OSError, urllib.error.URLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return Finding(
                "public URL",
                False,
                f"{url}/boot.ipxe cannot be reached from here: {reason}",
                fix="set [server] public_url to an address of this host on the machines' network, and open its port",
            )
        if not ours:
            return Finding(
                "public URL", False, f"something else answers at {url}", "BM303", "correct public_url"
            )
        try:
            host = socket.gethostbyname(
                url.partition("://")[2].partition("/")[0].rpartition(":")[0] or "localhost"
            )
        except OSError:
            host = ""
        if host.startswith("127."):
            return Finding(
                "public URL", None, f"{url} is this host's loopback: only virtual machines here reach it"
            )
        return Finding("public URL", True, f"{url} answers")

    def _tools(self) -> list[Finding]:
        found = []
        for tool, need, fix in (
            ("ksvalidator", "to check kickstarts", "pip install pykickstart"),
            ("debconf-set-selections", "to check preseeds", "apt-get install debconf"),
            ("qemu-system-x86_64", "for the lab", "apt-get install qemu-system-x86"),
        ):
            where = find_program(tool)
            what = f"{tool} {'is there' if where else 'is missing'} ({need})"
            found.append(Finding("tools", True if where else None, what, fix="" if where else fix))
        return found

    def _missing_loaders(self) -> list[Finding]:
        """Loaders that the settings name are needed; of the others it is only worth knowing."""
        needed = self._loaders.missing(self._wanted)
        found = [Finding("loaders", False, f"{one.name} is missing", "BM202", one.fix) for one in needed]
        names = {one.name for one in needed}
        usual = [one for one in self._loaders.missing(USUAL) if one.name not in names]
        if usual:
            what = f"{', '.join(one.name for one in usual)} not here: needed where machines do not bring iPXE"
            packages = " ".join(sorted({one.package for one in usual if one.package}))
            found.append(Finding("loaders", None, what, fix=f"apt-get install {packages}"))
        return found or [Finding("loaders", True, "the usual loaders are there")]

    def _media(self) -> list[Finding]:
        found = []
        for name in self._profiles.names():
            offer = self._profiles.offer(name)
            try:
                self._profiles.check_fetched(offer)
            except BaremetalError as error:
                # A profile that nobody uses needs no media; deploying it is refused with the same words.
                found.append(Finding(f"profile {name}", None, str(error), error.code, error.fix or ""))
            else:
                found.append(Finding(f"profile {name}", True, "media are there"))
        return found

    # -- one server --

    def _server(self, record: ServerRecord, *, ask: bool) -> list[Finding]:
        found = [*self._standing(record), *self._memory(record), *self._netboot(record), *self._bmc(record)]
        if ask and all(finding.ok is not False for finding in found):
            found.append(self._ask(record))
        return found

    def _standing(self, record: ServerRecord) -> list[Finding]:
        life, name = record.life, f"server {record.life.name}"
        run = life.run
        if life.maintenance:
            return [Finding(name, None, "in maintenance", fix=f"baremetal maintenance off {life.name}")]
        if life.last_error:
            code, _, _ = life.last_error.partition(" ")
            known = code if code.startswith("BM") else ""
            return [
                Finding(
                    name, False, f"{life.state}: {life.last_error}", known, f"baremetal explain {life.name}"
                )
            ]
        if run is not None and run.deadline is not None and run.deadline < self._now():
            step = current_step(life)
            text = f"run {run.number} is past its deadline at {step.name if step is not None else 'its step'}"
            return [Finding(name, False, text, fix="the sweep should have taken it: see the service's log")]
        if run is not None and run.trouble:
            return [
                Finding(name, None, f"run {run.number}: {run.trouble}", fix=f"baremetal explain {life.name}")
            ]
        return [Finding(name, True, str(life.state))]

    def _memory(self, record: ServerRecord) -> list[Finding]:
        """Installers unpack themselves into memory; only an inspection knows how much there is."""
        seen = self._store.inventory(record.id)
        mib = seen.found.get("memory_mib") if seen is not None else None
        if mib is None or mib >= LEAST_MEMORY_MIB:
            return []
        text = f"{mib} MiB, by its inspection: most installers need more than 1 GiB"
        return [
            Finding(
                f"memory of {record.life.name}", None, text, fix="see what the profile's installer asks for"
            )
        ]

    def _netboot(self, record: ServerRecord) -> list[Finding]:
        problem = self._pairing.problem(record) if self._pairing is not None else None
        if problem is None:
            return []
        return [
            Finding(f"loader of {record.life.name}", False, problem.what, problem.code, problem.fix or "")
        ]

    def _bmc(self, record: ServerRecord) -> list[Finding]:
        name = f"BMC of {record.life.name}"
        try:
            url = BmcUrl.parse(record.facts.bmc)
            user, password = self._store.credentials(record.id)
        except BaremetalError as error:
            return [Finding(name, False, str(error), error.code, error.fix or "")]
        if not user and not password:
            fix = f"baremetal set {record.life.name} --bmc … with a password file"
            return [Finding(name, False, "no credentials are stored", fix=fix)]
        if self._is_frozen(url, BmcCredentials(user, password)):
            fix = f"baremetal set {record.life.name} --bmc … with the right password"
            return [
                Finding(
                    name, False, "refused our credentials; not asked again until they change", "BM102", fix
                )
            ]
        if left := self._blocked_s(url):
            return [
                Finding(
                    name,
                    False,
                    f"did not answer; left alone for another {left:.0f} s",
                    "BM101",
                    "see its network",
                )
            ]
        return []

    def _ask(self, record: ServerRecord) -> Finding:
        name = f"BMC of {record.life.name}"
        try:
            with ExitStack() as stack:
                bmc = self._engine.converse(record, stack)
                info, power, flags = bmc.check(), bmc.power(), bmc.boot_device()
        except BaremetalError as error:
            return Finding(name, False, str(error), error.code, error.fix or "see docs/errors.md")
        self._store.set_power(record.id, power, self._now())
        product = " ".join(part for part in (info.vendor, info.product, info.firmware) if part) or "answers"
        boot = (
            "boot flags cannot be read" if flags.valid is None else f"boot device {flags.device or 'unknown'}"
        )
        return Finding(name, True, f"{product}, power {power}, {boot}")
