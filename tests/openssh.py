"""A real sshd (OpenSSH's) on the loopback, as whoever runs the tests, with one key that may log in."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baremetal.drivers.keys import generate_keypair

SSHD = "/usr/sbin/sshd"
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PrintMotd no
MaxStartups 100
MaxSessions 100
"""


@dataclass
class OpenSsh:
    """The daemon. `host_key` is its public one."""

    folder: Path
    port: int
    host_key: str
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def user(self) -> str:
        return getpass.getuser()

    def start(self) -> None:
        if (
            os.geteuid() == 0
        ):  # where it is separated from privileges; the service's own unit makes it elsewhere
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        until = time.monotonic() + 10.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < until, (self.folder / "sshd.log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """End the daemon and every connection to it. Idempotent."""
        if self._process is not None:
            for pid in (*_descendants(self._process.pid), self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def renew_host_key(self) -> None:
        """Be another machine from now on."""
        pair = generate_keypair("another host")
        self.stop()
        (self.folder / "host_key").write_text(pair.private)
        self.host_key = " ".join(pair.public.split()[:2])
        self.start()


def _descendants(parent: int) -> list[int]:
    """Each connection is a process in a session of its own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [parent]
    for each in found:
        found += [pid for pid, its in parents.items() if its == each]
    return found[1:]


@contextmanager
def openssh(folder: Path, authorized: str) -> Iterator[OpenSsh]:
    """Run one that lets in the holder of a public key. Skips where OpenSSH's server is not installed."""
    if shutil.which(SSHD) is None:
        pytest.skip("openssh-server is not installed")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = generate_keypair("host")
    (folder / "host_key").touch(mode=0o600)
    (folder / "host_key").write_text(host.private)
    (folder / "authorized_keys").write_text(f"{authorized}\n")
    (folder / "sshd_config").write_text(_CONFIG.format(port=port, folder=folder))
    daemon = OpenSsh(folder, port, " ".join(host.public.split()[:2]))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
