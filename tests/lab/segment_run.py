"""One deploy on a network segment of its own, from DHCP to proof: `python -m tests.lab.segment_run FOLDER WAY`.

Run in a network namespace of its own (`unshare --net`), so that DHCP's and TFTP's own ports are free and nobody else
hears them. Prints the run's notes as JSON. A way to boot is what DHCP names and what is in the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from baremetal.lab.segment import Segment
from baremetal.wiring import FLUSH_S
from tests.lab.rig import DEPLOY_S, STEP_S, Lab
from tests.programs import unpacked

ADDRESS = IPv4Interface("10.77.0.1/24")
DHCP = """
[dhcp]
mode = "full"
interface = "{interface}"
{more}

[[dhcp.subnet]]
range = "10.77.0.100-10.77.0.150"
mask = "255.255.255.0"
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How a machine gets to its boot answer. `ends`: the step of the run that shows it, "" for the whole deploy."""

    boot_mode: str
    network_rom: bool = True
    dhcp: str = ""
    ends: str = ""
    loaders: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Which package has the loader that is served under a name, and where."""


TFTP = """
[tftp]
listen = "10.77.0.1:69"
"""
PXELINUX = {"pxelinux.0": ("pxelinux", "usr/lib/PXELINUX/pxelinux.0")}
SHIM = {
    "shimx64.efi": ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
    "grubx64.efi": ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
}
WAYS = {
    "bios-ipxe": Way("bios"),
    # The ROM is iPXE's, which here stands for any PXE firmware: it is named pxelinux, and fetches that by TFTP.
    "bios-pxelinux": Way("bios", dhcp='filename = "pxelinux.0"', ends="complete", loaders=PXELINUX),
    # Without a ROM in the NIC the UEFI firmware netboots by itself.
    "uefi-grub": Way("uefi", network_rom=False, dhcp='loader_uefi = "shimx64.efi"', loaders=SHIM),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.segment_run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("way", choices=WAYS)
    asked = parser.parse_args()
    print(json.dumps(live(asked.folder, WAYS[asked.way])))
    return 0


def live(folder: Path, way: Way) -> list[str]:
    """Deploy the tiny system to one machine on a segment; return the notes of its run."""
    with Segment(ADDRESS, taps=1) as segment:
        settings = DHCP.format(interface=segment.bridge, more=way.dhcp) + TFTP
        lab = Lab(folder, address=str(ADDRESS.ip), more=settings)
        for name, (package, path) in way.loaders.items():
            target = lab.data / "loaders" / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(unpacked(package, path).path, target)
        try:
            lab.start()
            (server,) = lab.rack.up(
                boot_mode=way.boot_mode,
                boot_url="",
                disk_mib=512,
                taps=segment.names,
                network_rom=way.network_rom,
                attached=True,
            )
            lab.enrol(server)
            lab.deploy(server)
            if way.ends:
                lab.wait_for_step(server, way.ends, within_s=STEP_S)
                time.sleep(FLUSH_S * 3)
            else:
                shown = lab.wait_for_end(server, DEPLOY_S)
                assert shown["provision_state"] == "active", shown["last_error"]
            return lab.notes(server)
        finally:
            lab.rack.down()
            lab.stop()


if __name__ == "__main__":
    sys.exit(main())
