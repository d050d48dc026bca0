"""One complete run of the real Debian installer through the product, from a powered-off virtual server to `active`.

    python -m tests.lab.install_debian [--mirror URL] [--release debian13] [--boot-mode bios|uefi] [--evidence FOLDER]

Takes 15 to 30 minutes under emulation, so it is a command and not a test. `--mirror` is a Debian mirror's URL,
as in http://mirror.example.net/debian; without it the one of this machine's apt sources is used. `--full-mirror` says
that it carries all of the installer's components, and the installer then uses it directly.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lab.debian import DebianInstaller, fetch_installer, find_mirror
from baremetal.lab.mirror import CachingMirror
from baremetal.lab.rack import Rack
from baremetal.lab.server import VirtualServer
from baremetal.lab.udebs import SUITE, build_suite
from baremetal.netboot.tokens import mask_tokens

_SETTINGS = """\
[server]
boot_listen = "127.0.0.1:{boot_port}"
control_listen = "127.0.0.1:{control_port}"
public_url = "http://10.0.2.2:{boot_port}"
data_dir = "{folder}/data"

[deploy.budgets]
start_s = 3600.0
install_s = 10800.0
first_boot_s = 1800.0

[profile.{release}]
vars = {{ console = "ttyS0", mirror = "{mirror}", tasks = "", kernel_args = "{kernel_args}"{lean} }}
"""
# Answers to the installer's questions may stand on its command line: these spare an emulated guest half of its work.
_KERNEL_ARGS = (
    "base-installer/kernel/image=linux-image-cloud-amd64 base-installer/initramfs-tools/driver-policy=dep "
    "base-installer/install-recommends=false apt-setup/services-select= man-db/auto-update=false"
)
_MEMORY_MIB = 1024
_DISK_MIB = 6144


def main() -> int:
    """Run it and return the exit status of `baremetal deploy`."""
    options = _options()
    # an end from outside unwinds like any other: the service and the guest go with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baremetal"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baremetal-debian-")))
        installer = fetch_installer(options.release, cache, mirror=options.mirror)
        if options.full_mirror:
            mirror, lean = options.mirror or find_mirror(), ""
        else:
            mirror, lean = _lean_mirror(stack, cache, folder, options.mirror, installer)
        boot_port, control_port = _free_ports(2)
        (folder / "config.toml").write_text(
            _SETTINGS.format(
                boot_port=boot_port,
                control_port=control_port,
                folder=folder,
                release=options.release,
                mirror=mirror,
                kernel_args=_KERNEL_ARGS,
                lean=lean,
            )
        )
        media = folder / "data/media" / options.release / "debian-installer/amd64"
        media.mkdir(parents=True)
        shutil.copyfile(installer.kernel, media / "linux")
        shutil.copyfile(installer.initrd, media / "initrd.gz")
        rack = Rack(folder / "rack")
        stack.callback(rack.down)
        (server,) = rack.up(
            boot_mode=options.boot_mode,
            boot_url=f"http://10.0.2.2:{boot_port}/boot.ipxe",
            memory_mib=_MEMORY_MIB,
            disk_mib=_DISK_MIB,
            attached=True,
        )
        stack.enter_context(_service(folder))
        status = _deploy(folder, control_port, server, options.release)
        if options.evidence:
            _keep_evidence(options.evidence, folder, control_port, server)
        return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.install_debian", description=__doc__)
    parser.add_argument("--mirror", metavar="URL")
    parser.add_argument("--full-mirror", action="store_true")
    parser.add_argument("--release", default="debian13", choices=("debian12", "debian13"))
    parser.add_argument("--boot-mode", default="bios", choices=("bios", "uefi"))
    parser.add_argument("--evidence", metavar="FOLDER", type=Path)
    return parser.parse_args()


def _lean_mirror(
    stack: ExitStack, cache: Path, folder: Path, upstream: str | None, installer: DebianInstaller
) -> tuple[str, str]:
    """Serve the mirror through a cache, with the installer's own components pruned and completed."""
    overlay = folder / "overlay"
    mirror = stack.enter_context(CachingMirror(cache / "mirror", upstream or find_mirror(), overlay))
    missing = build_suite(mirror.url, installer.suite, installer.initrd, overlay, folder / "udebs")
    if missing:
        raise LabError(
            f"the mirror lacks parts of the installer of {installer.suite}: {', '.join(missing)}",
            fix="use another mirror, or a newer release",
        )
    return mirror.guest_url, f', udeb_suite = "{SUITE}", minimal = true'


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[None]:
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "baremetal", "serve", "--config", str(folder / "config.toml")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        token, deadline = folder / "data/control.token", time.monotonic() + 60
        while not token.is_file():
            if service.poll() is not None or time.monotonic() > deadline:
                raise LabError("the service did not start", seen=(folder / "service.log").read_text()[-500:])
            time.sleep(0.1)
        yield
    finally:
        service.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.wait(20)
        service.kill()
        service.wait()


def _baremetal(
    folder: Path, control_port: int, *words: str, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "BAREMETAL_URL": f"http://127.0.0.1:{control_port}",
        "BAREMETAL_TOKEN": (folder / "data/control.token").read_text().strip(),
    }
    print("$ baremetal", *words, flush=True)
    command = [sys.executable, "-m", "baremetal", *words]
    return subprocess.run(command, env=environment, text=True, capture_output=capture, check=False)


def _deploy(folder: Path, control_port: int, server: VirtualServer, release: str) -> int:
    identity = [
        "--mac",
        server.mac,
        "--boot-mode",
        str(server.boot_mode),
        "--var",
        f"ssh_address={server.ssh_address}",
    ]
    access = ["--bmc", server.bmc_url, "--bmc-password-file", str(server.password_file)]
    for words in (["enroll", server.name, *access, *identity], ["deploy", server.name, "--profile", release]):
        done = _baremetal(folder, control_port, *words)
        if done.returncode:
            return done.returncode
    return _baremetal(folder, control_port, "show", server.name).returncode


def _keep_evidence(target: Path, folder: Path, control_port: int, server: VirtualServer) -> None:
    """Keep what a reader can check: the history, the console, and which commit ran when."""
    target.mkdir(parents=True, exist_ok=True)
    for name, words in (("events.txt", ()), ("history.json", ("--all", "-o", "json"))):
        done = _baremetal(folder, control_port, "events", server.name, *words, capture=True)
        (target / name).write_text(done.stdout)
    console = server.serial_log.read_bytes().decode(errors="replace")
    plain = "".join(c for c in console if c in "\n\t" or c.isprintable())
    (target / "console.log").write_text(mask_tokens(plain))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    (target / "run.txt").write_text(f"commit {commit}\ndate   {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as failed:
        sys.exit(str(failed))
