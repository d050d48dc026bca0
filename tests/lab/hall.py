"""Two servers without disks, one BIOS and one UEFI, the service, and a storage host with one golden image."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import paramiko

from baremetal.drivers.keys import generate_keypair
from baremetal.lab.server import VirtualServer
from baremetal.lab.targets import CONTROL, TargetDaemon
from baremetal.lifecycle.model import BootMode
from baremetal.storage.shell import LocalShell
from baremetal.storage.tgt import Tgt
from tests.iscsi import SUCCESS, knock
from tests.lab.rig import STEP_S, Lab, running_lab

PAIR = generate_keypair("operator")
BASE = "iqn.2026-01.org.example"
STORAGE = """
[storage.nas]
kind = "tgt"
portal = "10.0.2.2:{port}"
base_iqn = "{base}"
folder = "{folder}"
socket = "{socket}"
"""


@dataclass(frozen=True)
class Hall:
    lab: Lab
    daemon: TargetDaemon
    volumes: Path
    bios: VirtualServer
    uefi: VirtualServer
    profile: str

    @property
    def both(self) -> tuple[VirtualServer, VirtualServer]:
        return self.bios, self.uefi

    def names(self) -> set[str]:
        return {one["name"] for one in self.lab.api.get("/v1/volumes")["volumes"]}

    def targets(self) -> set[str]:
        socket = f"{self.daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"
        return set(Tgt(LocalShell(), socket).targets())

    def clone(self, *servers: VirtualServer) -> None:
        for server in servers:
            self.lab.deploy(server, self.profile, ssh_authorized_keys=PAIR.public)
        for server in servers:
            assert self.lab.wait_for_end(server)["provision_state"] == "active", self.lab.story(server)

    def are_active(self) -> None:
        """Have both run a clone: each test may be run by itself."""
        if any(self.lab.show(server)["provision_state"] != "active" for server in self.both):
            self.clone(*self.both)

    def script(self, server: VirtualServer) -> str:
        """Be the server's iPXE and ask what to boot."""
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.lab.boot_port}", trust_env=False) as http:
            return http.get("/ipxe", params={"mac": server.mac}).text

    def account(self, server: VirtualServer) -> tuple[str, str, str]:
        """Return the user, the secret and the initiator that a server's script has."""
        lines = [line for line in self.script(server).splitlines() if line.startswith("set ")]
        words = dict(line.split(" ", 2)[1:] for line in lines)
        return words["username"], words["password"], words["initiator-iqn"]

    def lets_in(self, server: VirtualServer, other: VirtualServer) -> bool:
        """Whether a server, with what its own script has, can log in to the target of another one."""
        user, password, initiator = self.account(server)
        portal = (self.daemon.address, self.daemon.port)
        return knock(portal, f"{BASE}:{other.name}.main", initiator, user, password) == SUCCESS


@contextmanager
def running_hall(
    folder: Path, profile: str, golden: str, image: Path | None = None, *, memory_mib: int | None = None
) -> Iterator[Hall]:
    """Everything up, and `golden` made of an image, the tiny system's unless one is given."""
    kept = folder / "volumes"
    kept.mkdir()
    with TargetDaemon(folder / "t") as daemon:
        socket = f"{daemon.environment['TGT_IPC_SOCKET']}.{CONTROL}"
        more = STORAGE.format(port=daemon.port, base=BASE, folder=kept, socket=socket)
        with running_lab(
            folder / "lab", servers=2, boot_mode="mixed", disk_mib=0, memory_mib=memory_mib, more=more
        ) as (lab, (bios, uefi)):
            assert (bios.boot_mode, uefi.boot_mode) == (BootMode.BIOS, BootMode.UEFI)
            path = image or lab.data / "media/tiny/image.raw"
            lab.api.post("/v1/volumes", {"name": golden, "path": str(path)}, answer_s=600.0)
            yield Hall(lab, daemon, kept, bios, uefi, profile)


def sh(server: VirtualServer, command: str) -> str:
    """Run a command in the server's system, as the operator; waits for its sshd, within a bound."""
    host, _, port = server.ssh_address.rpartition(":")
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(PAIR.private))
    until = time.monotonic() + STEP_S
    while True:
        try:
            with paramiko.SSHClient() as client:
                client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
                client.connect(host, int(port), "root", pkey=key, timeout=10, banner_timeout=10, auth_timeout=10,
                               allow_agent=False, look_for_keys=False)  # fmt: skip
                _, out, _ = client.exec_command(command, timeout=20)
                return out.read().decode()
        except (OSError, EOFError, paramiko.SSHException):
            if time.monotonic() > until:
                raise
            time.sleep(0.3)
