"""A storage host for crash tests: a real tgtd, volumes as real files, and others' things beside ours.

The simulated machine comes to its volume through it: only who is let in by a real iSCSI login with CHAP gets what the
target shows, read from the very files. What a machine writes stands in the volume itself, which is the judge.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.sim.disk import SimulatedDisk, Write
from baremetal.sim.diskless import Attached, Ticket
from baremetal.sim.network import NoAnswer
from baremetal.storage.base import Kept, Target
from baremetal.storage.files import FileKeeper
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt
from tests.iscsi import SUCCESS, knock

BASE = "iqn.2026-01.org.example"
STRANGER = "iqn.2020-01.org.others:archive"
SIZE = 4 << 20
SETTINGS = """
[storage.nas]
kind = "tgt"
portal = "127.0.0.1:{port}"
base_iqn = "{base}"
folder = "{{folder}}/volumes"
socket = "{socket}"

[profile.clone]
family = "nocloud"
method = "clone"
template = "nocloud/clone.sh.j2"
golden = "tiny"
budgets = {{{{ ensure_s = 900.0, proof_s = 900.0 }}}}
"""


class VolumeDisk(SimulatedDisk):
    """A disk whose state and log are the first bytes of a volume's file."""

    path: Path

    @classmethod
    def on(cls, path: Path) -> VolumeDisk:
        """Read what is on a volume; an empty one is a blank disk."""
        with path.open("rb") as file:
            found = file.read(65536).rstrip(b"\0")
        known = json.loads(found) if found else {}
        disk = cls(
            "sda", "VOLUME", **{key: known[key] for key in ("system", "callback", "instance") if key in known}
        )
        disk.log = [Write(**line) for line in known.get("log", [])]
        disk.path = path
        return disk

    def keep(self) -> None:
        """Write it down."""
        known = {key: getattr(self, key) for key in ("system", "callback", "instance")}
        content = json.dumps(known | {"log": [asdict(line) for line in self.log]}).encode()
        with self.path.open("r+b") as file:
            file.write(content.ljust(65536, b"\0"))

    def partition(self, at: float, run: str, boot_id: str) -> None:
        super().partition(at, run, boot_id)
        self.keep()

    def install(self, at: float, run: str, boot_id: str, callback: str) -> None:
        super().install(at, run, boot_id, callback)
        self.keep()

    def settle(self, at: float, instance: str, run: str, callback: str) -> None:
        super().settle(at, instance, run, callback)
        self.keep()


class Nas:
    """The storage host; `baremetal.sim.diskless.Fabric` for the machine. Use as a context."""

    def __init__(self, folder: Path, allowed: set[str]) -> None:
        self._daemon = TargetDaemon(folder / "t")
        self._allowed = allowed
        self.foreign = folder / "archive.img"
        self.volumes = Path()

    def __enter__(self) -> Self:
        self.foreign.write_bytes(b"somebody's".ljust(SIZE, b"\0"))
        self._daemon.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.stop()

    @property
    def settings(self) -> str:
        return SETTINGS.format(port=self._daemon.port, base=BASE, socket=self._socket)

    @property
    def _socket(self) -> str:
        return f"{self._daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"

    def stand_in(self, folder: Path) -> None:
        """Keep the volumes of a service's folder from now on; no target of ours is served, others' are."""
        self.volumes = folder / "volumes"
        self._daemon.restart()
        for words in (
            ("target", "new", "--tid", "7", "--targetname", STRANGER),
            ("logicalunit", "new", "--tid", "7", "--lun", "1", "--backing-store", str(self.foreign)),
            ("target", "bind", "--tid", "7", "--initiator-address", "ALL"),
        ):
            self._daemon.admin("--mode", words[0], "--op", words[1], *words[2:])

    def lay_out(self, folder: Path) -> Path:
        """Put somebody else's volume into a service's folder; return a file for the golden image."""
        other = folder / "volumes" / "bm-other-ffffff-3"
        other.mkdir(parents=True)
        (other / "disk.img").write_bytes(b"another's".ljust(SIZE, b"\0"))
        (other / "tag.json").write_text(
            json.dumps({"volume": "f" * 32, "server": "e" * 32, "run": 3, "origin": None})
        )
        golden = folder / "golden.raw"
        golden.write_bytes(bytes(SIZE))
        disk = VolumeDisk.on(golden)
        disk.system = "golden"
        disk.keep()
        return golden

    # -- the storage network --

    def log_in(self, ticket: Ticket) -> Attached:
        portal = (ticket.address, ticket.port)
        if portal != (self._daemon.address, self._daemon.port):
            raise NoAnswer(f"no portal at {portal}")
        if knock(portal, ticket.target, ticket.initiator, ticket.user, ticket.password) != SUCCESS:
            raise NoAnswer("not let in")
        behind = {lun.number: lun for lun in self.targets()[ticket.target].luns}
        if ticket.lun not in behind:
            raise NoAnswer(f"no LUN {ticket.lun}")
        beside = behind.get(ticket.lun + 1)
        seed = None
        if beside is not None:
            assert not beside.writable
            seed = Path(beside.path).read_bytes()
            self._allowed.update(re.findall(r"ssh-ed25519 ([A-Za-z0-9+/=]+)", seed.decode("latin-1")))
        return Attached(VolumeDisk.on(Path(behind[ticket.lun].path)), seed)

    # -- what stands there --

    def targets(self) -> dict[str, Target]:
        return Tgt(LocalShell(), self._socket).targets()

    def accounts(self) -> list[str]:
        return self._daemon.admin("--mode", "account", "--op", "show").split()[2:]

    def kept(self) -> dict[str, Kept]:
        """Return what stands under the names of volumes. Fails where something half-made stands beside it."""
        names = {path.name for path in self.volumes.iterdir() if path.name != ".lock"}
        found = {one.name: one for one in FileKeeper(LocalShell(), str(self.volumes)).volumes()}
        assert names == set(found), "something half-made or half-removed was left"
        return found

    def check_others(self) -> None:
        """Nothing of others was touched, and the golden image was not either."""
        assert self.foreign.read_bytes() == b"somebody's".ljust(SIZE, b"\0")
        other = self.volumes / "bm-other-ffffff-3"
        assert (other / "disk.img").read_bytes() == b"another's".ljust(SIZE, b"\0")
        assert json.loads((other / "tag.json").read_text())["server"] == "e" * 32
        strange = self.targets()[STRANGER]
        assert [lun.path for lun in strange.luns] == [str(self.foreign)]
        golden = VolumeDisk.on(self.volumes / "golden-tiny" / "disk.img")
        assert (golden.system, golden.log) == ("golden", [])
