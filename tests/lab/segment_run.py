"""One deploy on a network segment of its own, from DHCP to proof: `python -m tests.lab.segment_run FOLDER WAY`.

Run in a network namespace of its own (`unshare --net`), so that DHCP's and TFTP's own ports are free and nobody else
hears them. Prints what was seen as JSON. A way to boot is what DHCP names and what is in the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from baremetal.lab.segment import Segment
from baremetal.ramsystem.architecture import Architecture
from baremetal.wiring import FLUSH_S
from tests.lab import grub_image
from tests.lab.rig import DEPLOY_S, STEP_S, Lab, TinyProfile
from tests.lab.router import router
from tests.programs import unpacked

ADDRESS = IPv4Interface("10.77.0.1/24")
ROUTER = IPv4Interface("10.77.0.254/24")
DHCP = """
[dhcp]
mode = "{mode}"
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
    architecture: Architecture = Architecture.X86_64
    network_rom: bool = True
    http_boot: bool = False
    secure_boot: bool = False
    mode: str = "full"
    """With "proxy" somebody else on the segment gives the addresses."""
    dhcp: str = ""
    ends: str = ""
    loaders: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Which package has the loader that is served under a name, and where."""
    kernel_args: str = ""

    @property
    def profile(self) -> TinyProfile:
        """The tiny system, made for its architecture."""
        name = "tiny" if self.architecture is Architecture.X86_64 else f"tiny-{self.architecture}"
        return TinyProfile(name, arch=self.architecture)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run left. `seconds`: from the order to deploy to the way's end."""

    mac: str
    uuid: str

    notes: list[str]
    seconds: float
    console: str


TFTP = """
[tftp]
listen = "10.77.0.1:69"
"""
PXELINUX = {"pxelinux.0": ("pxelinux", "usr/lib/PXELINUX/pxelinux.0")}
LPXELINUX = {"lpxelinux.0": ("pxelinux", "usr/lib/PXELINUX/lpxelinux.0")}
SHIM = {
    "shimx64.efi": ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
    "grubx64.efi": ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
}
SHIM_ARM64 = {
    "bootaa64.efi": ("shim-signed:arm64", "usr/lib/shim/shimaa64.efi.signed"),
    "grubaa64.efi": ("grub-efi-arm64-signed:arm64", "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed"),
}
IPXE = {"ipxe.efi": ("ipxe", "boot/ipxe.efi")}
SNPONLY = {"snponly.efi": ("ipxe", "usr/lib/ipxe/snponly.efi")}
WAYS = {
    "bios-ipxe": Way("bios"),
    # The ROM is iPXE's, which here stands for any PXE firmware: it is named pxelinux, and fetches that by TFTP.
    "bios-pxelinux": Way("bios", dhcp='filename = "pxelinux.0"', ends="complete", loaders=PXELINUX),
    "bios-lpxelinux": Way("bios", dhcp='filename = "lpxelinux.0"', ends="complete", loaders=LPXELINUX),
    "bios-proxy": Way("bios", mode="proxy", ends="complete"),
    # Without a ROM in the NIC the UEFI firmware netboots by itself.
    "uefi-ipxe": Way("uefi", network_rom=False, ends="complete", loaders=IPXE),
    "uefi-snponly": Way(
        "uefi", network_rom=False, dhcp='loader_uefi = "snponly.efi"', ends="complete", loaders=SNPONLY
    ),
    "uefi-http": Way("uefi", network_rom=False, http_boot=True, ends="complete", loaders=IPXE),
    "uefi-proxy": Way("uefi", network_rom=False, mode="proxy", ends="complete", loaders=IPXE),
    "uefi-grub": Way("uefi", network_rom=False, dhcp='loader_uefi = "shimx64.efi"', loaders=SHIM),
    "uefi-grub-upstream": Way(
        "uefi",
        network_rom=False,
        dhcp='loader_uefi = "grubx64.efi"',
        ends="complete",
        loaders={"grubx64.efi": grub_image.PACKAGE},
    ),
    "uefi-arm64": Way("uefi", Architecture.ARM64, dhcp='loader_arm64 = "bootaa64.efi"', loaders=SHIM_ARM64),
    "uefi-secure-boot": Way(
        "uefi",
        network_rom=False,
        secure_boot=True,
        dhcp='loader_uefi = "shimx64.efi"',
        loaders=SHIM,
        kernel_args="loglevel=7",  # or `quiet` would hide what the kernel says of it
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.segment_run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("way", choices=WAYS)
    asked = parser.parse_args()
    print(json.dumps(asdict(live(asked.folder, WAYS[asked.way]))))
    return 0


def live(folder: Path, way: Way) -> Seen:
    """Deploy the tiny system to one machine on a segment; return what was seen of its run."""
    with (
        Segment(ADDRESS, taps=1) as segment,
        router(segment.bridge, ROUTER) if way.mode == "proxy" else nullcontext(),
    ):
        settings = DHCP.format(mode=way.mode, interface=segment.bridge, more=way.dhcp) + TFTP
        own = () if way.profile.name == "tiny" else (way.profile,)
        lab = Lab(folder, own, address=str(ADDRESS.ip), more=settings)
        for name, (package, path) in way.loaders.items():
            target = lab.data / "loaders" / name
            target.parent.mkdir(exist_ok=True)
            if (package, path) == grub_image.PACKAGE:
                grub_image.make(target)
            else:
                shutil.copyfile(unpacked(package, path).path, target)
        try:
            lab.start()
            (server,) = lab.rack.up(
                boot_mode=way.boot_mode,
                architecture=way.architecture,
                boot_url="",
                disk_mib=512,
                taps=segment.names,
                network_rom=way.network_rom,
                http_boot=way.http_boot,
                secure_boot=way.secure_boot,
                attached=True,
            )
            lab.enrol(server)
            began = time.monotonic()
            more = {"kernel_args": way.kernel_args} if way.kernel_args else {}
            lab.deploy(server, way.profile.name, **more)
            if way.ends:
                lab.wait_for_step(server, way.ends, within_s=STEP_S)
                took_s = time.monotonic() - began
                time.sleep(FLUSH_S * 3)
            else:
                shown = lab.wait_for_end(server, DEPLOY_S)
                took_s = time.monotonic() - began
                assert shown["provision_state"] == "active", shown["last_error"]
            seen = lab.notes(server), round(took_s, 1), lab.console(server)
            return Seen(server.mac, str(server.uuid), *seen)
        finally:
            lab.rack.down()
            lab.stop()


if __name__ == "__main__":
    sys.exit(main())
