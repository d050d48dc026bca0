"""One boot of a UEFI machine by its firmware's own PXE client, in a network namespace made for it.

`unshare -Urn python -m tests.lab.tftp_firmware FOLDER` prints what our TFTP server reported, as JSON.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import structlog

from baremetal.lab.firmware import find_firmware
from baremetal.lifecycle.model import BootMode
from baremetal.netboot.tftp import Content, FileContent, Limits, Outcome, Request, bind
from tests.unit.netboot.tftp_rig import Rig

SERVER = "198.51.100.1"
LOADER = "EFI/BOOT/BOOTX64.EFI"
SIZE = 1_500_000


def main(folder: Path) -> None:
    for words in (("link", "set", "lo", "up"), ("addr", "add", f"{SERVER}/32", "dev", "lo")):
        subprocess.run(["ip", *words], check=True)
    # no program: the firmware fetches it all and then finds that out
    (folder / "loader").write_bytes(random.Random(1).randbytes(SIZE))

    def resolve(asked: Request) -> Content | None:
        return FileContent(folder / "loader") if asked.name == LOADER else None

    firmware = find_firmware(BootMode.UEFI)
    assert firmware.variables is not None
    shutil.copy(firmware.variables, folder / "variables.fd")
    # what DHCP says is written as many sites write it
    netdev = f"user,id=net0,tftp-server-name={SERVER},bootfile=\\EFI\\BOOT\\BOOTX64.EFI"
    command = [str(firmware.qemu), "-nodefaults", "-no-user-config", "-display", "none", "-m", "512"]
    command += ["-machine", "q35,usb=off", "-accel", "tcg", "-boot", "strict=on"]
    command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
    command += ["-drive", f"if=pflash,unit=1,format=raw,file={folder / 'variables.fd'}"]
    command += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    # romfile= leaves iPXE out: what boots is the firmware's own client
    command += ["-netdev", netdev, "-device", "virtio-net-pci,netdev=net0,romfile=,bootindex=0"]
    command += ["-serial", f"file:{folder / 'serial.log'}"]
    with Rig(resolve, sock=bind("0.0.0.0", 69), limits=Limits()) as rig:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            rig.wait(lambda: any(seen.outcome is Outcome.SERVED for seen in rig.seen), 120)
        finally:
            machine.kill()
            machine.wait(10)
    print(json.dumps([asdict(seen) | {"at": seen.at.isoformat()} for seen in rig.seen]))


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )  # stdout is for the JSON
    main(Path(sys.argv[1]))
