"""Servers that do not exist, for rendering a profile before any real one asks for it.

Owns their facts and their variables: nothing set, everything set, and a bond. What a family can only do when it is
told (ESXi's disk, an image's checksum) is told here too. Deliberately unknown: real servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from baremetal.netboot.context import Context, ServerFacts, Urls, merge_variables
from baremetal.netboot.profile import Family, Profile

SAMPLE_SERVER: Final = ServerFacts(
    id="0123456789abcdef0123456789abcdef",
    name="sample-1",
    macs=("52:54:00:12:34:56", "52:54:00:12:34:57"),
    boot_mac="52:54:00:12:34:56",
    uuid="00112233-4455-6677-8899-aabbccddeeff",
    serial="SAMPLE-1",
)
_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFSAMPLE0000000000000000000000000000000000000 sample"
_STATIC: Final[Mapping[str, Any]] = {
    "domain": "example.net",
    "ip": "192.0.2.10/24",
    "gateway": "192.0.2.1",
    "dns": ["192.0.2.2", "192.0.2.3"],
    "ntp": ["192.0.2.4", "time.example.net"],
    "kernel_args": "nomodeset audit=0",
    "console": "ttyS1,115200n8",
    "timezone": "Europe/Rome",
    "locale": "C.UTF-8",
    "keyboard": "de",
    "mirror": "http://mirror.example.net/tree",
    "ssh_authorized_keys": [_KEY],
}
_VLAN: Final[Mapping[str, Any]] = {"vlan": 12}
_DISK: Final[Mapping[str, Any]] = {"disk": "size>=100G,rotational=false"}
_BOND: Final[Mapping[str, Any]] = {"bond": "bond0:eno1,eno2:mode=802.3ad,miimon=100"}
_NO_VLAN: Final = frozenset({Family.WINDOWS})
_NO_BOND: Final = frozenset({Family.PRESEED, Family.ESXI, Family.WINDOWS})
_NO_SELECTOR: Final = frozenset({Family.ESXI, Family.WINDOWS})
# What the operator must say, because nothing else can know it.
NEEDS: Final[Mapping[Family, Mapping[str, Any]]] = {
    Family.ESXI: {
        "esxi_disk": "mpx.vmhba0:C0:T0:L0",
        "esxi_modules": ["jumpstrt.gz", "features.gz", "s.v00"],
    },
    Family.WINDOWS: {"install_share": "\\\\192.0.2.1\\windows"},
    Family.IMAGE: {"image_sha256": "0" * 64},
}


def samples(family: Family) -> list[dict[str, Any]]:
    """Return the variables of each sample server of a family."""
    needs = dict(NEEDS.get(family, {}))
    static = dict(_STATIC)
    if family not in _NO_VLAN:
        static.update(_VLAN)
    if family not in _NO_SELECTOR:
        static.update(_DISK)
    wanted = [needs, {**static, **needs}]
    if family not in _NO_BOND:
        wanted.append({**static, **_BOND, **needs})
    return wanted


def sample_context(profile: Profile, **variables: Any) -> Context:
    """Return a context for a server that does not exist, with stand-ins for its tokens."""
    uefi = "ip" in variables
    return Context(
        server=replace(SAMPLE_SERVER, boot_mode="uefi") if uefi else SAMPLE_SERVER,
        run=1,
        profile=profile,
        variables=merge_variables(NEEDS.get(profile.family, {}), profile.variables, variables),
        urls=Urls.of("http://192.0.2.1:8080", profile.name, "sample-fetch-token", "sample-callback-token"),
        proof_key=_KEY,
    )
