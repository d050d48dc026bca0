"""A diskless machine and what it boots from, without a service: a target with a system and a seed, and an iPXE script.

Owns the target's making by `tgtadm`, the seed's form, and the machine. What is in the system is the tiny system's own.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import paramiko

from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine
from baremetal.lab.targets import TargetDaemon
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.sim.chassis import BootOrder
from tests.lab.guests import BootHost, text_of, wait_until
from tests.lab.tiny_rig import free_port

BASE = "iqn.2026-01.example.lab"
# What a template writes for a clone: who it is, who may log in, and what it says first.
USER_DATA = """\
#!/bin/sh
set -eu
umask 077
mkdir -p /etc/baremetal /root/.ssh
echo {name}/1 >/etc/baremetal/run
echo '{key}' >/root/.ssh/authorized_keys
echo "ran for $(hostname)" >>/root/ran
echo "echo told >>/root/told" >/etc/baremetal/first-boot
curl -fsS -G --data-urlencode "key=$(cat /etc/ssh/ssh_host_ed25519_key.pub)" -o /dev/null {url}
"""


@dataclass(frozen=True, slots=True)
class Volume:
    """What one machine boots from, and who may."""

    name: str
    number: int
    password: str = field(default_factory=lambda: uuid4().hex[:16])

    @property
    def target(self) -> str:
        return f"{BASE}:{self.name}.tiny"

    @property
    def initiator(self) -> str:
        return f"{BASE}:host.{self.name}"

    def uri(self, targets: TargetDaemon) -> str:
        """Its first LUN as iPXE of a guest is told; the controller is LUN 0."""
        return f"iscsi:10.0.2.2::{targets.port}:1:{self.target}"


def make_seed(folder: Path, *, instance: str, name: str, user_data: str, fat: bool = False) -> Path:
    """Write a NoCloud seed, an ISO 9660 or a FAT filesystem, and return it."""
    content = folder / f"seed-{instance}"
    content.mkdir(parents=True)
    (content / "meta-data").write_text(f'instance-id: "{instance}"\nlocal-hostname: {name}  # the clone\n')
    (content / "user-data").write_text(user_data)
    seed = folder / f"seed-{instance}.img"
    files = [content / "meta-data", content / "user-data"]
    if fat:
        with seed.open("wb") as image:
            image.truncate(1 << 20)
        run("mkfs.vfat", "-n", "CIDATA", str(seed))
        run("mcopy", "-i", str(seed), *map(str, files), "::/")
    else:
        run("genisoimage", "-quiet", "-o", str(seed), "-V", "cidata", "-J", "-R", *map(str, files))
    return seed


def run(*command: str) -> None:
    tool = shutil.which(command[0], path="/usr/bin:/usr/sbin:/bin:/sbin")
    assert tool, f"{command[0]} is not installed"
    subprocess.run([tool, *command[1:]], check=True, capture_output=True, timeout=60)


def serve(targets: TargetDaemon, volume: Volume, *luns: Path, chap: bool = True) -> None:
    """Make the target, its LUNs from 1 up, and let nobody in but the volume's own initiator, by CHAP."""
    tid = str(volume.number)
    targets.admin("--mode", "target", "--op", "new", "--tid", tid, "-T", volume.target)
    for number, path in enumerate(luns, 1):
        where = ("--tid", tid, "--lun", str(number))
        targets.admin("--mode", "logicalunit", "--op", "new", *where, "-b", str(path))
    if chap:
        account = ("--user", volume.name, "--password", volume.password)
        targets.admin("--mode", "account", "--op", "new", *account)
        targets.admin("--mode", "account", "--op", "bind", "--tid", tid, "--user", volume.name)
    targets.admin("--mode", "target", "--op", "bind", "--tid", tid, "--initiator-name", volume.initiator)


def let_in(initiator: str, account: Volume) -> str:
    """What an iPXE script says of itself: a name, and somebody's CHAP account."""
    return f"set initiator-iqn {initiator}\nset username {account.name}\nset password {account.password}"


def boot_script(volume: Volume, targets: TargetDaemon, before: str = "") -> bytes:
    access = let_in(volume.initiator, volume)
    return f"#!ipxe\n{before}{access}\nset keep-san 1\nsanboot {volume.uri(targets)}\n".encode()


class Diskless:
    """One diskless machine with its boot host."""

    def __init__(self, folder: Path, volume: Volume, host: BootHost, mode: BootMode) -> None:
        self.host = host
        self.ssh_port = free_port()
        spec = MachineSpec(
            name=volume.name,
            directory=folder / volume.name,
            mac=f"52:54:00:d1:00:{volume.number:02x}",
            uuid=uuid4(),
            serial=f"DISKLESS{volume.number}",
            disks=(),
            boot_url=host.url,
            boot_mode=mode,
            ssh_port=self.ssh_port,
        )
        self.machine = QemuMachine(spec, find_firmware(mode))

    def power_on(self) -> None:
        self._seen = len(text_of(self.machine.spec.serial_log))
        self.machine.power_on(BootOrder(BootDevice.PXE, persistent=True))

    def said(self, words: str, within_s: float) -> str:
        """Wait for these words on the console since power-on, and return all since then."""

        def look() -> str:
            text = self.console()
            return text if words in text else ""

        return wait_until(look, within_s, f"{words!r} on the console:\n{self.console()[-2000:]}")

    def console(self) -> str:
        return text_of(self.machine.spec.serial_log)[self._seen :].decode(errors="replace")

    def ask(self, key: paramiko.PKey, command: str, within_s: float = 40) -> str:
        """Log in as root, once sshd is up, and return what the command printed."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return self._ask(key, command, within_s)
            except (OSError, EOFError, paramiko.SSHException):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)

    def _ask(self, key: paramiko.PKey, command: str, within_s: float) -> str:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect(
                "127.0.0.1", self.ssh_port, "root", pkey=key, timeout=within_s, banner_timeout=within_s,
                auth_timeout=within_s, allow_agent=False, look_for_keys=False,
            )  # fmt: skip
            _, output, _ = client.exec_command(command, timeout=within_s)
            return output.read().decode()
