"""Our boot scripts in real iPXE: every fetch is tried again, loops end, and local boot reaches the disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine, VirtualDisk
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_install_script
from baremetal.netboot.scripts import LocalBoot, LocalBootMethod, boot_script, local_boot_script, wait_script
from baremetal.netboot.templates import Templates, freeze
from baremetal.sim.chassis import OWN_ORDER, BootOrder
from tests.lab.guests import DISK_GREETING, boot_sector, text_of, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

MAC = "52:54:00:0b:00:02"
SYSTEM_UUID = "0b5e7c2e-5a39-4a55-9d0c-3d8f6f1f0a02"
PROFILE = Profile("dummy", Family.KICKSTART, "vmlinuz", "initrd.img", "kickstart/tiny.ks.j2")


class Host:
    """A web server on loopback: each path has its answers (a status, or what is served), the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int | str | bytes]] = {}
        self.asked: list[str] = []
        self.query: dict[str, str] = {}
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                host.asked.append(url.path)
                if url.query:
                    host.query = {key: values[0] for key, values in parse_qs(url.query).items()}
                waiting = host.answers.get(url.path, [404])
                answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                body = answer.encode() if isinstance(answer, str) else answer
                body = b"" if isinstance(body, int) else body
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.base = f"http://10.0.2.2:{self._server.server_port}"
        self.answers["/boot.ipxe"] = [boot_script(self.base)]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.fixture
def boot(tmp_path: Path, host: Host) -> Iterator[Callable[..., QemuMachine]]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed")
    made: list[QemuMachine] = []

    def boot(mode: BootMode = BootMode.BIOS) -> QemuMachine:
        disk = tmp_path / "disk0.img"
        disk.write_bytes(boot_sector())
        os.truncate(disk, 8 << 20)
        spec = MachineSpec(
            name="r1",
            directory=tmp_path,
            mac=MAC,
            uuid=UUID(SYSTEM_UUID),
            serial="LAB 0002",
            disks=(VirtualDisk(disk, 8, "LABDISK1"),),
            boot_url=f"{host.base}/boot.ipxe",
            boot_mode=mode,
        )
        machine = QemuMachine(spec, find_firmware(mode), next_boot=lambda: OWN_ORDER)
        made.append(machine)
        machine.power_on(BootOrder(BootDevice.PXE))
        return machine

    yield boot
    for machine in made:
        machine.close()


def install_script(base: str) -> str:
    context = Context(
        server=ServerFacts("0" * 32, "r1", (MAC,), MAC),
        run=1,
        profile=PROFILE,
        variables=merge_variables(),
        urls=Urls.of(base, "dummy", "f" * 44, "c" * 44),
    )
    return render_install_script(freeze(PROFILE, Templates.with_own()), context)


def disk_is_up(machine: QemuMachine) -> bool:
    return DISK_GREETING in text_of(machine.spec.serial_log)


def test_every_fetch_is_tried_again(boot: Callable[..., QemuMachine], host: Host) -> None:
    host.answers["/ipxe"] = [503, wait_script(host.base), install_script(host.base)]
    host.answers["/media/dummy/vmlinuz"] = [503, "no kernel at all"]
    host.answers["/media/dummy/initrd.img"] = [503, 503, "no initrd"]
    boot()
    wanted = ["/boot.ipxe", "/ipxe", "/ipxe", "/boot.ipxe", "/ipxe", *["/media/dummy/vmlinuz"] * 2]
    wanted += ["/media/dummy/initrd.img"] * 3
    wait_until(lambda: len(host.asked) >= len(wanted), 120, f"the fetches; seen {host.asked}")
    assert host.asked == wanted
    assert host.query["mac"] == MAC
    assert host.query["uuid"] == SYSTEM_UUID
    assert host.query["serial"] == "LAB 0002"


@pytest.mark.parametrize("method", [LocalBootMethod.EXIT, LocalBootMethod.SANBOOT])
def test_local_boot_reaches_the_disk(
    boot: Callable[..., QemuMachine], host: Host, method: LocalBootMethod
) -> None:
    host.answers["/ipxe"] = [local_boot_script("active: boots its disk", LocalBoot(method))]
    machine = boot()
    wait_until(lambda: disk_is_up(machine), 60, "the disk's own system")
    assert host.asked == ["/boot.ipxe", "/ipxe"]


def test_a_loop_of_scripts_ends_at_the_disk(boot: Callable[..., QemuMachine], host: Host) -> None:
    """Pain 9, S1-1: the loop counter of boot.ipxe, in iPXE itself."""
    host.answers["/ipxe"] = [f"#!ipxe\nchain --replace {host.base}/boot.ipxe\n"]
    machine = boot()
    wait_until(lambda: disk_is_up(machine), 60, f"the disk's own system; seen {host.asked}")
    assert host.asked.count("/boot.ipxe") == 6
