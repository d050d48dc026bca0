"""A storage host in user space: one `tgtd`, unprivileged, in a folder of its own and on a port of its own.

Owns the daemon's process, its control socket and its portal. Which targets it has is for whoever talks to it (by
`tgtadm` with `environment` and `CONTROL`); it forgets them all when it stops. Knows nothing of volumes or servers.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from baremetal.errors import LabError

CONTROL: Final = 0
"""The control number: sockets are told apart by their folder."""
_START_S = 20.0
_ADMIN_S = 20.0
_SOCKET_LIMIT = 100  # bytes that the name of a socket can have, less what tgt appends
_PLACES = "/usr/sbin:/sbin"


class TargetDaemon:
    """A `tgtd` that runs between `start` and `stop`, and ends with the thread that started it.

    The portal is `address`:`port`; a `port` of 0 is chosen once and kept over restarts.
    """

    def __init__(self, folder: Path, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.folder = folder
        self.address = address
        self.port = port or _free_port(address)
        self._process: subprocess.Popen[bytes] | None = None
        if len(os.fsencode(self._socket)) > _SOCKET_LIMIT:
            raise LabError("the folder's name is too long for a control socket", seen=str(folder))

    @property
    def _socket(self) -> Path:
        return self.folder / "tgt"

    @property
    def log(self) -> Path:
        """What the daemon said since it was last started."""
        return self.folder / "tgtd.log"

    @property
    def environment(self) -> Mapping[str, str]:
        """What `tgtadm` needs in its environment to find this daemon."""
        return {"TGT_IPC_SOCKET": str(self._socket)}

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the daemon, without targets; return once it answers. Idempotent. Raises LabError."""
        if self.is_running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [_tool("tgtd"), "-f", "-C", str(CONTROL), "--iscsi", f"portal={self.address}:{self.port}"]
        # the kernel ends the daemon when the thread that started it is gone
        guard = shutil.which("setpriv")
        with self.log.open("wb") as log:
            process = self._process = subprocess.Popen(
                [guard, "--pdeathsig", "KILL", "--", *command] if guard else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() >= deadline:
                self.stop()
                raise LabError("tgtd did not start", seen=self._tail())
            time.sleep(0.02)
        # A portal that it cannot have it silently exchanges for port 3260 on every address of this host.
        if f"Portal: {self.address}:{self.port}," not in self.admin("--mode", "portal", "--op", "show"):
            self.stop()
            raise LabError("tgtd cannot have its portal", seen=f"{self.address}:{self.port}")

    def stop(self) -> None:
        """End the daemon as a power cut would: it does not heed SIGTERM while it has targets. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop and start; what it had is gone."""
        self.stop()
        self.start()

    def admin(self, *words: str) -> str:
        """Run `tgtadm --lld iscsi` with these words and return what it printed. Raises LabError."""
        command = [_tool("tgtadm"), "-C", str(CONTROL), "--lld", "iscsi", *words]
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=_ADMIN_S,
            check=False,
        )
        if done.returncode:
            raise LabError(f"tgtadm {' '.join(words[:4])} failed", seen=done.stderr.strip())
        return done.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            return "State: ready" in self.admin("--mode", "sys", "--op", "show")
        except LabError:
            return False

    def _tail(self) -> str | None:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else None


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if found is None:
        raise LabError(f"{name} is not installed", fix="install the package tgt (apt-get install tgt)")
    return found


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
