"""`baremetal lab demo`: the whole main job on one host, in a temporary folder, with nothing asked and nothing left.

Starts the service as a child, a virtual server behind a BMC that speaks IPMI, enrols it, deploys the tiny system to it
by netboot and answer file, logs in to what runs, and cleans up.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from baremetal.cli import deploy as deploying
from baremetal.cli.cache import folder_for
from baremetal.cli.options import Output
from baremetal.cli.paint import Paint
from baremetal.cli.ssh import log_in
from baremetal.client import Client, Place, server_path
from baremetal.errors import BaremetalError, LabError, TimedOut, Unavailable

# Generous: on a host that is busy with other things, starting alone may take a minute.
_READY_S = 180.0
_VERIFIED_S = 120.0
_LOOK = "cat /etc/baremetal/run; uname -a"
# The guest's name for this host's loopback, by QEMU's own network.
_GUEST_HOST = "10.0.2.2"


@dataclass(slots=True)
class Stage:
    """The demo's folder, ports and addresses."""

    folder: Path
    boot_port: int
    control_port: int
    simulated: bool
    boot_mode: str
    began: float = field(default_factory=time.monotonic)

    @property
    def public_url(self) -> str:
        host = "127.0.0.1" if self.simulated else _GUEST_HOST
        return f"http://{host}:{self.boot_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "service.log"


@dataclass(frozen=True, slots=True)
class Guest:
    """What is enrolled, whichever kind of virtual server it is."""

    name: str
    bmc_url: str
    password: str
    mac: str
    uuid: str
    serial: str
    boot_mode: str
    ssh_address: str = ""
    console: Path | None = None


def run(*, boot_mode: str, keep: bool, simulated: bool) -> None:
    """Run the demo. Raises BaremetalError with what went wrong; leaves with 1 where the deploy failed."""
    why = ""
    if not simulated:
        from baremetal.lab.rack import available

        possible, why = available(boot_mode)
        simulated = not possible
    with _terminates(), ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="baremetal-demo-"))
        boot_port, control_port = _free_ports(2)
        stage = Stage(folder, boot_port, control_port, simulated, boot_mode)
        # Also with --keep: it keeps things running until Ctrl-C, and then everything goes.
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _head(stage, why)
        try:
            ok = _play(stage, stack)
        except BaremetalError:
            _tail(stage)
            raise
        except KeyboardInterrupt:
            print("\nInterrupted; cleaning up", file=sys.stderr, flush=True)
            raise
        if not ok:
            _tail(stage)
            raise typer.Exit(1)
        if keep:
            _stay(stage)
        stack.close()
        _step("cleaned up", f"the whole demo took {time.monotonic() - stage.began:.0f} s")


def _play(stage: Stage, stack: ExitStack) -> bool:
    media = _Media(stage)
    media.start()
    key = _operator_key(stage.folder)
    child = _start_service(stage, stack, key)
    guest = _start_guest(stage, stack)
    client = _connect(stage, stack, child)
    media.wait()
    _enrol(client, guest)
    order = {"profile": "tiny"}
    _shell(f"baremetal deploy {guest.name} --profile tiny")
    accepted = client.post(server_path(guest.name, "deploy"), order)
    title = f"deploy {guest.name} · tiny · run {accepted['run']}"
    runs = {guest.name: accepted["run"]}
    if not deploying.watch(client, runs, Output.TABLE, title=title, detaches=False):
        return False
    _show(client, guest, key.with_suffix(""))
    return True


# -- the parts -----------------------------------------------------------------------------------------------------


class _Media(threading.Thread):
    """Builds the tiny system, or finds it built, while the service and the server start."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._error: BaremetalError | None = None
        self._told = ""
        self._took_s = 0.0

    def run(self) -> None:
        began = time.monotonic()
        try:
            self._told = self._lay_out()
        except BaremetalError as error:
            self._error = error
        except OSError as error:
            self._error = LabError(f"the media could not be laid out: {error}")
        self._took_s = time.monotonic() - began

    def wait(self) -> None:
        """Wait for the media and say what they are. Raises LabError."""
        self.join()
        if self._error is not None:
            raise self._error
        _step("media", self._told, self._took_s)

    def _lay_out(self) -> str:
        folder = self._stage.data / "media" / "tiny"
        folder.mkdir(parents=True)
        if self._stage.simulated:
            for name in ("vmlinuz", "initrd.img", "image.raw"):
                (folder / name).write_bytes(b"simulated\n")
            return "stand-ins: the simulated machine installs nothing real"
        from baremetal.lab.tiny.build import build

        cache = cache_folder()
        built = cache.is_dir() and any(cache.iterdir())
        media = build(cache)
        for source, name in (
            (media.kernel, "vmlinuz"),
            (media.initrd, "initrd.img"),
            (media.image, media.image.name),
        ):
            place(source, folder / name)
        size = media.image.stat().st_size / (1 << 20)
        return f"a tiny system of Debian packages, {size:.0f} MiB{', cached' if built else ''}"


def cache_folder() -> Path:
    """Return where the tiny system's media are kept."""
    return folder_for("tiny")


def place(source: Path, target: Path) -> None:
    """Put a file where the service finds it: a second name for it where the disk is the same, else a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _operator_key(folder: Path) -> Path:
    """Make a key pair for the login at the end; returns the public half's file."""
    from baremetal.drivers.keys import generate_keypair

    pair = generate_keypair("baremetal-demo")
    private = folder / "operator"
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(pair.private)
    public = private.with_suffix(".pub")
    public.write_text(pair.public + "\n")
    return public


def _start_service(stage: Stage, stack: ExitStack, key: Path) -> subprocess.Popen[bytes]:
    settings = [
        "[server]",
        f'boot_listen = "127.0.0.1:{stage.boot_port}"',
        f'control_listen = "127.0.0.1:{stage.control_port}"',
        f'public_url = "{stage.public_url}"',
        f'data_dir = "{stage.data}"',
        "[deploy]",
        f'ssh_authorized_keys = ["{key.read_text().strip()}"]',
    ]
    if stage.simulated:
        # Nothing real is installed, so nobody can log in to it.
        settings += ["[profile.tiny]", 'proof = "first-boot"']
    config = stage.folder / "config.toml"
    config.write_text("\n".join(settings) + "\n")
    stage.data.mkdir(mode=0o700, exist_ok=True)
    # The settings of this host's own service are not the demo's.
    env = {name: value for name, value in os.environ.items() if not name.startswith("BAREMETAL_")}
    with stage.log.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "baremetal", "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    stack.callback(_end, child)
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _start_guest(stage: Stage, stack: ExitStack) -> Guest:
    began = time.monotonic()
    if stage.simulated:
        from baremetal.cli.simulated import SimulatedServer

        server = stack.enter_context(SimulatedServer(stage.public_url, secrets.token_hex(8)))
        _step("server r1", "simulated at the packet level, powered off", time.monotonic() - began)
        _step("its BMC", f"IPMI 2.0 on 127.0.0.1 port {server.bmc_port}")
        return Guest(
            server.name, server.bmc_url, server.password, server.mac, server.uuid, server.serial, "bios"
        )
    from baremetal.lab.rack import Rack

    rack = Rack(stage.folder / "rack")
    stack.callback(rack.down)
    (one,) = rack.up(
        servers=1,
        boot_mode=stage.boot_mode,
        boot_url=f"{stage.public_url}/boot.ipxe",
        disk_mib=512,
        attached=True,
    )
    firmware = "OVMF (UEFI)" if stage.boot_mode == "uefi" else "SeaBIOS"
    _step("server r1", f"QEMU with {firmware} and iPXE, powered off", time.monotonic() - began)
    _step("its BMC", f"IPMI 2.0 on 127.0.0.1 port {one.bmc_port}")
    return Guest(
        one.name,
        one.bmc_url,
        rack.password,
        one.mac,
        str(one.uuid),
        one.serial,
        str(one.boot_mode),
        one.ssh_address,
        one.serial_log,
    )


def _connect(stage: Stage, stack: ExitStack, child: subprocess.Popen[bytes]) -> Client:
    began, token = time.monotonic(), stage.data / "control.token"
    while True:
        if token.is_file() and token.read_text().strip():
            client = Client(Place(stage.url, token))
            try:
                client.get("/healthz")
            except Unavailable:
                client.close()
            else:
                stack.callback(client.close)
                _step("service", f"{stage.url}, SQLite in {stage.data}", time.monotonic() - stage.began)
                return client
        if child.poll() is not None:
            raise Unavailable("the service did not start", seen=_last_line(stage.log))
        if time.monotonic() - began > _READY_S:
            raise TimedOut("the service did not answer in time", seen=_last_line(stage.log))
        time.sleep(0.05)


def _enrol(client: Client, guest: Guest) -> None:
    began = time.monotonic()
    body: dict[str, Any] = {
        "name": guest.name,
        "bmc": guest.bmc_url,
        "bmc_password": guest.password,
        "macs": [guest.mac],
        "uuid": guest.uuid,
        "serial": guest.serial,
        "boot_mode": guest.boot_mode,
        "vars": {"ssh_address": guest.ssh_address} if guest.ssh_address else {},
    }
    client.post("/v1/servers", body)
    while True:
        server = client.get(server_path(guest.name))
        if server["provision_state"] == "available":
            break
        if server["last_error"] or time.monotonic() - began > _VERIFIED_S:
            raise LabError(
                f"{guest.name} could not be enrolled", seen=server["last_error"] or server["provision_state"]
            )
        time.sleep(0.1)
    _step("enrolled", f"its BMC answers to IPMI; {guest.name} is available", time.monotonic() - began)


def _show(client: Client, guest: Guest, key: Path) -> None:
    """Log in to what runs now and look."""
    server = client.get(server_path(guest.name))
    if not guest.ssh_address:
        _shell(f"baremetal show {guest.name}")
        print(
            f"{guest.name} is {server['provision_state']}, power {server['power_state']}, profile {server['profile']}"
        )
        print()
        return
    if shutil.which("ssh") is None:
        _step("ssh", "there is no ssh client here; the proof above has logged in with its own")
        return
    _shell(f"baremetal ssh {guest.name} -- '{_LOOK}'")
    done = log_in(guest.name, client.get(server_path(guest.name, "ssh")), [_LOOK], identity=key, capture=True)
    if done.returncode != 0:
        raise LabError(
            f"{guest.name} does not let us in", seen=done.stderr.strip() or f"ssh: {done.returncode}"
        )
    print(done.stdout.rstrip())
    print()


# -- what is shown -------------------------------------------------------------------------------------------------


def _head(stage: Stage, why: str) -> None:
    paint = Paint.stdout()
    print()
    kind = (
        "a server simulated at the packet level"
        if stage.simulated
        else "a virtual server with real firmware, in QEMU"
    )
    print(paint(f"From powered off to a proven, running system: {kind}", "bold"))
    if why:
        print(paint(f"QEMU cannot be had here: {why}", "yellow"))
    print(flush=True)


def _step(word: str, text: str, took_s: float | None = None) -> None:
    paint = Paint.stdout()
    took = paint(f"  {took_s:.1f} s", "dim") if took_s is not None and took_s >= 0.05 else ""
    print(f"  {paint('✓', 'green')} {word:<11} {text}{took}", flush=True)


def _shell(command: str) -> None:
    paint = Paint.stdout()
    print(f"\n{paint('$', 'dim')} {paint(command, 'bold')}", flush=True)


def _tail(stage: Stage) -> None:
    """Show the last of what the service and the machine said, before it is all cleaned up."""
    paint = Paint.stderr()
    for what, path in (
        ("service", stage.log),
        ("console of r1", stage.folder / "rack" / "r1" / "serial.log"),
    ):
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").strip().splitlines()[-12:]
            if lines:
                print(paint(f"\nlast of the {what}:", "dim"), file=sys.stderr)
                print("\n".join(f"  {line}" for line in lines), file=sys.stderr)


def _stay(stage: Stage) -> None:
    """Keep everything running until Ctrl-C, and say how to use it."""
    print("Everything stays up until Ctrl-C. In another shell:\n")
    print(f"  export BAREMETAL_URL={stage.url} BAREMETAL_TOKEN=$(cat {stage.data / 'control.token'})")
    print("  baremetal list")
    if not stage.simulated:
        print(f"  baremetal ssh r1 -i {stage.folder / 'operator'}")
    print(flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    print()


def _last_line(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else None
    return None


@contextlib.contextmanager
def _terminates() -> Iterator[None]:
    """Let SIGTERM end the demo the way Ctrl-C does, so that it cleans up."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(int(sock.getsockname()[1]))
        return ports
