"""The whole product for the lab's tests: a real `baremetal serve`, a rack of virtual servers, and a client.

Owns their folder, ports and processes, and the few things that tests ask of all three. Everything a test changes of a
server it changes through the API, the BMC or the kernel's signals, as users and accidents do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from baremetal.cli.demo import cache_folder, place
from baremetal.client import Client, Place, server_path
from baremetal.errors import Unavailable
from baremetal.lab.rack import Rack, available
from baremetal.lab.server import VirtualServer
from baremetal.lab.tiny.build import KERNEL_ARGS, KERNEL_ARGS_ARM64, build
from baremetal.lab.tiny.disklog import count_installs, read_disk_log
from baremetal.ramsystem.architecture import Architecture

T = TypeVar("T")

# Bounds, not expectations: a busy machine needs several times what an idle one does.
DEPLOY_S = 300.0
STEP_S = 120.0
SOON_S = 30.0

SETTINGS = """\
[server]
boot_listen = "{address}:{boot}"
control_listen = "127.0.0.1:{control}"
public_url = "http://{public}:{boot}"
data_dir = "{data}"

[bmc]
observe_interval_s = 2.0

[deploy]
sweep_interval_s = 0.25

[deploy.limits]
# One machine is deployed more often here than anybody would in an hour.
power_writes_per_hour = 1000
"""

PROFILE = """
[profile.{name}]
arch = "{arch}"
family = "kickstart"
kernel = "vmlinuz"
initrd = "initrd.img"
template = "kickstart/tiny.ks.j2"
kernel_args = "{kernel_args}"
proof = "{proof}"
budgets = {{ {budgets} }}
"""


@dataclass(frozen=True, slots=True)
class TinyProfile:
    """The tiny system as a profile of its own: other budgets, another proof, another architecture."""

    name: str
    budgets: Mapping[str, float] = field(default_factory=dict)
    proof: str = "ssh"
    media: tuple[str, ...] = ("vmlinuz", "initrd.img", "image.raw")
    arch: Architecture = Architecture.X86_64

    @property
    def text(self) -> str:
        budgets = ", ".join(f"{name} = {float(value)}" for name, value in self.budgets.items())
        arguments = {Architecture.X86_64: KERNEL_ARGS, Architecture.ARM64: KERNEL_ARGS_ARM64}[self.arch]
        return PROFILE.format(
            name=self.name, arch=self.arch, proof=self.proof, budgets=budgets, kernel_args=arguments
        )


class Lab:
    """A running service and its rack. Servers are enrolled and available when a test gets them.

    `address`: where the service stands on a segment of its own, with `more` settings; without one the machines reach it
    through QEMU's user network.
    """

    def __init__(
        self, folder: Path, profiles: tuple[TinyProfile, ...] = (), *, address: str = "", more: str = ""
    ) -> None:
        self.folder = folder
        self._address = address
        self._more = more
        self.boot_port, self.control_port = _free_ports(2)
        self.data = folder / "data"
        self.rack = Rack(folder / "rack")
        self._log = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self._lay_out(profiles)

    # -- the service --

    @property
    def api(self) -> Client:
        assert self._client is not None, "the service is not running"
        return self._client

    @property
    def log(self) -> str:
        """What the service has written to its log, over all its lives."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start the service and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "baremetal", "serve", "--config", str(self.folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url, token = f"http://127.0.0.1:{self.control_port}", self.data / "control.token"
        self.wait(lambda: token.is_file() and token.read_text().strip(), STEP_S, "control token")
        self._client = Client(Place(url, token))
        self.wait(self._answers, STEP_S, "answer of the service")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            self.api.get("/healthz")
        except Unavailable:
            return False
        return True

    def kill(self) -> None:
        """End the service the way a power cut does."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._forget()

    def stop(self) -> None:
        """End the service politely; idempotent."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        self._process = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _lay_out(self, profiles: tuple[TinyProfile, ...]) -> None:
        for profile in (TinyProfile("tiny"), *profiles):
            media = build(cache_folder(), profile.arch)
            files = {"vmlinuz": media.kernel, "initrd.img": media.initrd, "image.raw": media.image}
            target = self.data / "media" / profile.name
            target.mkdir(parents=True, mode=0o700)
            for name in profile.media:
                place(files[name], target / name)
        settings = SETTINGS.format(
            address=self._address or "127.0.0.1",
            public=self._address or "10.0.2.2",
            boot=self.boot_port,
            control=self.control_port,
            data=self.data,
        )
        text = settings + self._more + "".join(profile.text for profile in profiles)
        (self.folder / "config.toml").write_text(text)

    # -- the rack --

    def enrol(self, server: VirtualServer) -> None:
        """Enrol a server of the rack and wait until it is available."""
        body = {
            "name": server.name,
            "bmc": server.bmc_url,
            "bmc_password": self.rack.password,
            "macs": [server.mac],
            "uuid": str(server.uuid),
            "serial": server.serial,
            "boot_mode": str(server.boot_mode),
            "arch": str(server.architecture),
            "vars": {} if server.tap else {"ssh_address": server.ssh_address},
        }
        self.api.post("/v1/servers", body)
        self.wait_for(server, lambda shown: shown["provision_state"] == "available", STEP_S, "available")

    def ipmitool(self, server: VirtualServer, *words: str) -> str:
        """Ask a server's BMC something, not through the service."""
        address = ["-I", "lanplus", "-H", "127.0.0.1", "-p", str(server.bmc_port), "-U", "admin", "-E"]
        done = subprocess.run(
            ["ipmitool", *address, *words],
            env=os.environ | {"IPMI_PASSWORD": self.rack.password},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for_power(self, server: VirtualServer, power: str, within_s: float) -> None:
        """Wait until the BMC itself says so."""
        self.wait(
            lambda: f"is {power}" in self.ipmitool(server, "power", "status"), within_s, f"power {power}"
        )

    def boots(self, server: VirtualServer) -> int:
        """How often the machine's firmware has started, in all."""
        return next(each.boots for each in self.rack.status() if each.server.name == server.name)

    def installs(self, server: VirtualServer) -> int:
        """How often an installer began to write to the server's disk, by the disk's own log."""
        return count_installs(server.disk.path) if server.disk.path.exists() else 0

    def disk_log(self, server: VirtualServer, run: int) -> list[str]:
        """The first words of the lines that one run left in the disk's own log."""
        mark = f"run={self.show(server)['id']}/{run} "
        if not server.disk.path.exists():
            return []
        lines = read_disk_log(server.disk.path)
        return [line.split()[0] for line in lines if mark in f"{line} " or f" run={run} " in line]

    # -- asking and waiting --

    def show(self, server: VirtualServer) -> dict[str, Any]:
        shown: dict[str, Any] = self.api.get(server_path(server.name))
        return shown

    def ask(self, server: VirtualServer, verb: str, **body: Any) -> int:
        """Ask for a verb; returns the run's number."""
        answer = self.api.post(server_path(server.name, verb), body)
        return int(answer["run"] or 0)

    def deploy(
        self, server: VirtualServer, profile: str = "tiny", *, fail: str = "", **variables: str
    ) -> int:
        """Ask for a deploy; `fail` tells the installer to fail this way. Returns the run's number."""
        if fail:
            variables["kernel_args"] = f"tiny.fail={fail}"
        return self.ask(server, "deploy", profile=profile, vars=variables)

    def make_available(self, *servers: VirtualServer) -> None:
        """Bring servers back to where they can be deployed, whatever a test before left."""
        for server in servers:
            state = self.show(server)["provision_state"]
            if state in ("active", "deploy failed", "error"):
                self.ask(server, "release")
            elif state != "available":
                self.ask(server, "abort")
                self.wait_for(server, _rests, STEP_S, "end of what was under way")
                self.ask(server, "release")
        for server in servers:
            self.wait_for(server, lambda shown: shown["provision_state"] == "available", STEP_S, "available")

    def wait_for(
        self,
        server: VirtualServer,
        claim: Callable[[dict[str, Any]], bool],
        within_s: float,
        what: str,
    ) -> dict[str, Any]:
        """Wait until a claim about the server holds; fails at once when its run ended in failure without it."""
        until = time.monotonic() + within_s
        while not claim(shown := self.show(server)):
            failed = shown["run"] is None and "failed" in shown["provision_state"]
            if failed or time.monotonic() > until:
                state, error = shown["provision_state"], shown["last_error"]
                why = f"no {what} of {server.name}: {state} {shown['run']} {error}\n{self.story(server)}"
                pytest.fail(f"{why}\n{self.console(server)[-2000:]}")
            time.sleep(0.1)
        return shown

    def wait_for_end(self, server: VirtualServer, within_s: float = DEPLOY_S) -> dict[str, Any]:
        """Wait until the server's run is over, well or not."""
        return self.wait_for(
            server, lambda shown: shown["run"] is None and _rests(shown), within_s, "end of the run"
        )

    def wait_for_step(self, server: VirtualServer, *steps: str, within_s: float = STEP_S) -> dict[str, Any]:
        return self.wait_for(
            server,
            lambda shown: shown["run"] is not None and shown["run"]["step"] in steps,
            within_s,
            steps[0],
        )

    def wait(self, claim: Callable[[], T], within_s: float, what: str) -> T:
        """Return the first true value of `claim`."""
        until = time.monotonic() + within_s
        while not (value := claim()):
            assert time.monotonic() < until, f"no {what} within {within_s} s\n{self.log[-2000:]}"
            time.sleep(0.02)
        return value

    def tell(self, server: VirtualServer, run: int | None = None) -> dict[str, Any]:
        """The timeline of a run (the newest by default)."""
        told: dict[str, Any] = self.api.get(server_path(server.name, "timeline"), run=run)
        return told

    def notes(self, server: VirtualServer, run: int | None = None) -> list[str]:
        return [str(mark["note"]) for mark in self.tell(server, run)["marks"]]

    def story(self, server: VirtualServer) -> str:
        return (
            "\n".join(self.notes(server))
            if self.show(server)["run"] or self.show(server)["deployed_run"]
            else ""
        )

    def console(self, server: VirtualServer) -> str:
        return server.serial_log.read_text(errors="replace") if server.serial_log.exists() else ""

    # -- what the machine holds --

    def callback(self, server: VirtualServer) -> str:
        """The call-back URL of the open run, read from its answer file the way its installer reads it.

        From a loopback address, like the guest's own requests; takes one of the boot scripts that an attempt may have.
        """
        base = f"http://127.0.0.1:{self.boot_port}"
        with httpx2.Client(base_url=base, trust_env=False) as http:
            script = http.get("/ipxe", params={"mac": server.mac}).text
            answer = next(word for word in script.split() if word.startswith("inst.ks=")).partition(
                "/answer/"
            )[2]
            text = http.get(f"/answer/{answer}").text
        line = next(line for line in text.splitlines() if line.startswith("BM_CALLBACK="))
        path = line.partition("/callback/")[2].strip("'")
        return f"{base}/callback/{path}"


def call(url: str, **fields: str) -> tuple[int, str]:
    """Say something to a call-back URL as a machine does."""
    with httpx2.Client(trust_env=False) as http:
        answer = http.post(url, data=fields)
        return answer.status_code, answer.text


@contextmanager
def running_lab(
    folder: Path,
    *,
    servers: int,
    boot_mode: str,
    profiles: tuple[TinyProfile, ...] = (),
    more_disks_mib: tuple[int, ...] = (),
    disk_mib: int = 512,
    memory_mib: int | None = None,
    more: str = "",
) -> Iterator[tuple[Lab, list[VirtualServer]]]:
    """Everything up, every server enrolled and available; everything gone afterwards."""
    there, reason = available(boot_mode)
    if not there:
        pytest.skip(reason)
    lab = Lab(folder, profiles, more=more)
    try:
        lab.start()
        machines = lab.rack.up(
            servers=servers,
            boot_mode=boot_mode,
            boot_url=f"http://10.0.2.2:{lab.boot_port}/boot.ipxe",
            disk_mib=disk_mib,
            more_disks_mib=more_disks_mib,
            memory_mib=memory_mib,
            attached=True,
        )
        for machine in machines:
            lab.enrol(machine)
        yield lab, machines
    finally:
        lab.rack.down()
        lab.stop()


def _rests(shown: Mapping[str, Any]) -> bool:
    """Whether nothing is under way."""
    return shown["run"] is None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
