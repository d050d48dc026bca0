"""A real service process that may be killed, and a machine that lives on: real IPMI, real HTTP, real SSH, on loopback.

The machine is simulated at the packet level in the test's own process; its disk's log is the judge. The service is
`baremetal serve` on a real SQLite file, killed by its own failpoints.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import paramiko

from baremetal.cli.simulated import SimulatedServer
from baremetal.drivers.keys import generate_keypair
from baremetal.failpoints import VARIABLE
from baremetal.sim.chassis import OWN_ORDER
from baremetal.sim.disk import SimulatedDisk
from baremetal.sim.machine import Timing
from baremetal.sim.network import HttpNetwork, Reply

PASSWORD = "made-up"
SPEED = 5.0
PATIENCE_S = 150.0
TIMING = Timing(post_s=2.0, kernel_s=1.0, install_s=3.0, boot_s=2.0)
SETTINGS = """
[server]
boot_listen = "127.0.0.1:{boot}"
control_listen = "127.0.0.1:{control}"
data_dir = "{folder}/data"
log_format = "json"

[bmc]
observe_interval_s = 0

[deploy]
sweep_interval_s = 0.2

[profile.test]
family = "kickstart"
kernel = "vmlinuz"
initrd = "initrd.img"
template = "tiny.ks.j2"
proof = "ssh"
# Budgets count while the service is dead, too; on a busy host its starts take long.
budgets = {{ ensure_s = 900.0, proof_s = 900.0 }}
"""


@lru_cache
def _host_key(run: str) -> tuple[str, paramiko.PKey]:
    pair = generate_keypair(run)
    return pair.public, paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))


class Sshd:
    """The installed system's sshd: the proof key of its answer file may log in, and hears which run this is."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ended = False
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            machine = self._rig.server.machine
            if not machine.ssh_up:
                connection.close()
                continue
            transport = paramiko.Transport(connection)
            transport.add_server_key(_host_key(machine.running)[1])
            self._transports.append(transport)
            with suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=_ForcedCommand(self._rig.allowed, machine.running))

    def close(self) -> None:
        self._ended = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for transport in self._transports:
            transport.close()


class _ForcedCommand(paramiko.ServerInterface):
    def __init__(self, allowed: set[str], prints: str) -> None:
        self._allowed = allowed
        self._prints = prints

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == "root" and key.get_base64() in self._allowed
        return paramiko.common.AUTH_SUCCESSFUL if good else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        later = threading.Timer(0.05, self._run, args=(channel,))
        later.daemon = True
        later.start()
        return True

    def _run(self, channel: paramiko.Channel) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            channel.sendall(f"{self._prints}\n".encode())
            channel.send_exit_status(0)
            channel.close()


class _Installer(HttpNetwork):
    """The machine's network; what an answer file allows to log in is what its system will let in."""

    def __init__(self, allowed: set[str]) -> None:
        self._allowed = allowed

    def get(self, url: str) -> Reply:
        reply = super().get(url)
        self._allowed.update(re.findall(r"ssh-ed25519 ([A-Za-z0-9+/=]+)", reply.body))
        return reply


class Rig:
    """One machine for all tests of a module, and service processes one after the other. Use as a context."""

    def __init__(self) -> None:
        self.boot_port, self.control_port = _free_ports(2)
        self.allowed: set[str] = set()
        self.more = ""
        """Further settings, with {folder} for the service's own."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        url = f"http://127.0.0.1:{self.boot_port}"
        self.server = self._stack.enter_context(SimulatedServer(url, PASSWORD, TIMING, speed=SPEED))
        self.server.machine.key_of = lambda run: _host_key(run)[0]
        self.server.machine._network = _Installer(self.allowed)
        self.sshd = Sshd(self)
        self._stack.callback(self.sshd.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def lay_out(self, folder: Path) -> None:
        """Write settings and media into `folder`."""
        (folder / "data/media/test").mkdir(parents=True)
        for name in ("vmlinuz", "initrd.img", "image.raw"):
            (folder / "data/media/test" / name).write_bytes(b"simulated")
        self.settle(folder)

    def settle(self, folder: Path) -> None:
        """Write the settings of a folder anew, for one that was copied."""
        settings = (SETTINGS + self.more).format(
            boot=self.boot_port, control=self.control_port, folder=folder
        )
        (folder / "config.toml").write_text(settings)

    def reset_machine(self) -> None:
        """Give the machine a fresh disk, and somebody presses its power button."""
        machine = self.server.machine
        machine.disk = SimulatedDisk()
        if self.server.chassis.is_on:
            self.server.chassis.power_off()
        self.server.chassis.power_on(OWN_ORDER)

    def enrolment(self) -> dict[str, Any]:
        return {
            "name": "r1",
            "bmc": self.server.bmc_url,
            "bmc_password": PASSWORD,
            "macs": [self.server.mac],
            "uuid": self.server.uuid,
            "vars": {"ssh_address": f"127.0.0.1:{self.sshd.port}"},
        }


class ServiceProcess:
    """`baremetal serve`, with failpoints armed. Use as a context; it is killed at the end, as a power cut would.

    The machine's time stands still while no service answers: how long a start takes here is not its affair.
    """

    def __init__(self, rig: Rig, folder: Path, failpoints: str = "") -> None:
        self._folder = folder
        self._control = f"http://127.0.0.1:{rig.control_port}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BAREMETAL_")}
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "baremetal", "serve", "--config", str(folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ | ({VARIABLE: failpoints} if failpoints else {}),
            )
        self._api: httpx2.Client | None = None
        self._chassis = rig.server.chassis

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chassis.speed = 0.0
        if self._api is not None:
            self._api.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    @property
    def was_killed(self) -> bool:
        """Whether a failpoint has killed it. Fails when it ended in any other way."""
        status = self.process.poll()
        assert status in (None, -signal.SIGKILL), self.log()
        return status is not None

    def log(self) -> str:
        return (self._folder / "log").read_text()[-4000:]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask the control app; None while it does not answer, or where the answer to the same request was lost."""
        try:
            if self._api is None:
                token = (self._folder / "data" / "control.token").read_text().strip()
                assert token
                self._api = httpx2.Client(
                    base_url=self._control, headers={"authorization": f"Bearer {token}"}, trust_env=False
                )
            answer = self._api.request(method, path, json=body, timeout=30)
        except (httpx2.TransportError, FileNotFoundError):
            return None
        self._chassis.speed = SPEED
        if answer.status_code == 409:
            return None
        assert answer.status_code < 400, answer.text
        return answer.json()

    def wait(self, path: str, within_s: float = PATIENCE_S) -> Any:
        """Wait until the control app answers."""
        until = time.monotonic() + within_s
        while (answer := self.ask("GET", path)) is None:
            assert not self.was_killed
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)
        return answer


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
