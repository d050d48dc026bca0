"""Real UEFI firmware on a segment of its own, told by our dnsmasq what to boot.

What is proven is the first fetch: the loader that the firmware asks for. S4-1; pain 8.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baremetal.errors import LabError
from baremetal.lab.firmware import Firmware, find_firmware
from baremetal.lifecycle.model import BootMode
from baremetal.netboot.dhcp.offer import Mode
from tests.integration.segment import Segment as Place
from tests.integration.segment import may_make_segments
from tests.integration.test_dhcp import BASE, US, Rig, router, until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed"),
    pytest.mark.skipif(not may_make_segments(), reason="needs root and network namespaces"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun"),
]

MAC = "52:54:00:77:00:01"
PATIENCE_S = 90.0


@dataclass
class Doors:
    """Where machines knock: our HTTP and TFTP ports, which only write down what is asked for."""

    place: Place
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[Doors]:
        with ExitStack() as stack:
            self._http = stack.enter_context(self.place.run("us", lambda: socket.create_server((US, 8080))))
            self._tftp = stack.enter_context(
                self.place.run("us", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            )
            self._tftp.bind((US, 69))
            yield self

    def wait(self) -> str:
        """Return what is asked for first, as a URL; empty where nothing is in time."""
        deadline = time.monotonic() + PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._http, self._tftp], [], [], left)
            if self._tftp in ready:
                data = self._tftp.recv(2048)
                if data[:2] == b"\0\1":
                    return "tftp:" + data[2:].split(b"\0")[0].decode()
            if self._http in ready:
                talk, _ = self._http.accept()
                with talk:
                    talk.settimeout(10)
                    words = talk.recv(4096).split(b" ")
                    return BASE + words[1].decode()
        return ""


@contextmanager
def guest(place: Place, folder: Path, firmware: Firmware) -> Iterator[None]:
    """A machine with nothing but firmware and a network card, on the segment's bridge."""
    for words in (("tuntap", "add", "tap0", "mode", "tap"), ("link", "set", "tap0", "master", "br0", "up")):
        subprocess.run(place.command("wire", "ip", *words), check=True, capture_output=True, timeout=20)
    command = [
        str(firmware.qemu), "-accel", "tcg", "-machine", "q35,usb=off", "-m", "256", "-nodefaults", "-display", "none",
        "-serial", f"file:{folder}/serial.log", "-netdev", "tap,id=lan0,ifname=tap0,script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=lan0,mac={MAC},romfile=,bootindex=1",
        "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
    ]  # fmt: skip
    if firmware.code and firmware.variables:
        shutil.copyfile(firmware.variables, folder / "variables.fd")
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={folder}/variables.fd"]
    nice = ["nice", "-n", "10"] if os.geteuid() == 0 else []
    with subprocess.Popen(place.command("wire", *nice, *command), stderr=subprocess.PIPE, text=True) as child:
        try:
            yield
        finally:
            assert child.poll() is None, child.stderr.read() if child.stderr else ""
            child.kill()


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.PROXY])
def test_uefi_firmware_fetches_the_loader_that_it_was_told(mode: Mode, tmp_path: Path) -> None:
    """OVMF's own PXE: at once in mode full; by a second question, at port 4011, beside a router."""
    try:
        firmware = find_firmware(BootMode.UEFI)
    except LabError as error:
        pytest.skip(str(error))
    with ExitStack() as everything:
        place = everything.enter_context(Place())
        place.add("us", f"{US}/24")
        if mode is Mode.PROXY:
            everything.enter_context(router(place, tmp_path))
        rig = everything.enter_context(Rig(place, tmp_path, mode).running())
        doors = everything.enter_context(Doors(place).open())
        everything.enter_context(guest(place, tmp_path, firmware))
        assert doors.wait() == "tftp:ipxe.efi"
        until(lambda: [seen for seen in rig.seen if seen.mac == MAC and seen.arch == 7])
