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

SERVER, GUEST = "198.51.100.1", "198.51.100.10"
NETDEV = "tap,id=net0,ifname=lab0,script=no,downscript=no"
LOADER = "EFI/BOOT/BOOTX64.EFI"
SIZE = 1_500_000


def main(folder: Path) -> None:
    for words in ("tuntap add dev lab0 mode tap", f"addr add {SERVER}/24 dev lab0", "link set lab0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    lease = [f"--dhcp-range={GUEST},{GUEST}", "--dhcp-leasefile=/dev/null", "--no-ping"]
    # the file's name with backslashes, as many sites write it
    lease += ["--dhcp-boot=\\EFI\\BOOT\\BOOTX64.EFI"]
    dhcp = [
        "dnsmasq",
        "-d",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--group=root",
        "--pid-file=",
    ]
    # no program: the firmware fetches it all and then finds that out
    (folder / "loader").write_bytes(random.Random(1).randbytes(SIZE))

    def resolve(asked: Request) -> Content | None:
        return FileContent(folder / "loader") if asked.name == LOADER else None

    firmware = find_firmware(BootMode.UEFI)
    assert firmware.variables is not None
    shutil.copy(firmware.variables, folder / "variables.fd")
    command = [str(firmware.qemu), "-nodefaults", "-no-user-config", "-display", "none", "-m", "512"]
    command += ["-machine", "q35,usb=off", "-accel", "tcg", "-boot", "strict=on"]
    command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
    command += ["-drive", f"if=pflash,unit=1,format=raw,file={folder / 'variables.fd'}"]
    command += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    # romfile= leaves iPXE out: what boots is the firmware's own client
    command += ["-netdev", NETDEV, "-device", "virtio-net-pci,netdev=net0,romfile=,bootindex=0"]
    command += ["-serial", f"file:{folder / 'serial.log'}"]
    with Rig(resolve, sock=bind("0.0.0.0", 69), limits=Limits()) as rig:
        started: list[subprocess.Popen[bytes]] = []
        try:
            for each in ([*dhcp, *lease, "--interface=lab0", "--bind-interfaces"], command):
                started.append(
                    subprocess.Popen(each, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=2)
                )
            rig.wait(lambda: any(seen.outcome is Outcome.SERVED for seen in rig.seen), 100)
        finally:
            for process in started:
                process.kill()
                process.wait(10)
    print(json.dumps([asdict(seen) | {"at": seen.at.isoformat()} for seen in rig.seen]))


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )  # stdout is for the JSON
    main(Path(sys.argv[1]))
