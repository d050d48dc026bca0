"""Our TFTP server and the firmware it is for: iPXE, and the network boot of UEFI itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import MachineSpec, QemuMachine
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.netboot.tftp import Content, FileContent, Limits, Outcome, Request
from baremetal.sim.chassis import OWN_ORDER, BootOrder
from tests.lab.guests import wait_until
from tests.lab.tftp_firmware import LOADER, SIZE
from tests.unit.netboot.tftp_rig import Rig

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _qemu() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed")


def test_ipxe_fetches_scripts_and_a_kernel(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(random.Random(4).randbytes(3_000_001))
    base = ""

    def resolve(asked: Request) -> Content | None:
        if asked.name == "boot.ipxe":
            return (
                f"#!ipxe\nchain {base}/missing.ipxe || imgfetch {base}/vmlinuz\n"
                f"chain {base}/done.ipxe?${{mac:hexhyp}}\n"
            ).encode()
        if asked.name.startswith("done.ipxe"):
            return b"#!ipxe\nexit\n"
        return FileContent(tmp_path / "vmlinuz") if asked.name == "vmlinuz" else None

    with Rig(resolve, limits=Limits()) as rig:
        base = f"tftp://10.0.2.2:{rig.address[1]}"
        spec = MachineSpec(
            name="t1",
            directory=tmp_path,
            mac="52:54:00:0b:00:09",
            uuid=UUID("0b5e7c2e-5a39-4a55-9d0c-3d8f6f1f0a09"),
            serial="LAB 0009",
            disks=(),
            boot_url=f"{base}/boot.ipxe",
        )
        machine = QemuMachine(spec, find_firmware(BootMode.BIOS), next_boot=lambda: OWN_ORDER)
        try:
            machine.power_on(BootOrder(BootDevice.PXE))
            wait_until(
                lambda: any("done" in seen.name for seen in rig.seen), 120, f"the end; seen {rig.seen}"
            )
        finally:
            machine.close()
    assert [(seen.name.partition("?")[0], seen.outcome) for seen in rig.seen][:4] == [
        ("boot.ipxe", Outcome.SERVED),
        ("missing.ipxe", Outcome.NOT_FOUND),
        ("vmlinuz", Outcome.SERVED),
        ("done.ipxe", Outcome.SERVED),
    ]
    assert rig.seen[2].bytes == 3_000_001
    assert rig.seen[2].block_size > 1400


def test_uefi_asks_for_the_size_and_then_fetches(tmp_path: Path) -> None:
    """EDK2's own client. QEMU's user network keeps port 69 to itself: hence a network of our own. Pain 20."""
    for program in ("ip", "unshare", "dnsmasq"):
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed")
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun here")
    command = ["unshare", "-Urn", sys.executable, "-m", "tests.lab.tftp_firmware", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    probe, *_, fetched = json.loads(done.stdout)
    assert probe["name"] == fetched["name"] == LOADER
    assert probe["outcome"] == "probed"
    assert (fetched["outcome"], fetched["bytes"]) == ("served", SIZE)
    assert fetched["block_size"] > 1400
