"""A sample network: two racks of ours and one behind a relay."""

from __future__ import annotations

import ipaddress
from typing import Any

from baremetal.netboot.dhcp.offer import Host, Mode, Network, Segment

RACK1: dict[str, Any] = {
    "name": "rack1",
    "network": ipaddress.IPv4Network("10.0.1.0/24"),
    "first": ipaddress.IPv4Address("10.0.1.100"),
    "last": ipaddress.IPv4Address("10.0.1.199"),
    "interface": "eth1",
    "base": "http://10.0.1.2:8080",
    "next_server": "10.0.1.2",
    "script": "http://10.0.1.2:8080/boot.ipxe",
    "routers": ("10.0.1.1",),
    "dns_servers": ("10.0.0.53", "10.0.0.54"),
}
RACK2: dict[str, Any] = {
    "name": "rack2",
    "network": ipaddress.IPv4Network("10.0.2.0/23"),
    "first": ipaddress.IPv4Address("10.0.2.0"),
    "last": None,
    "interface": "eth2",
    "base": "http://10.0.2.2:8080",
    "next_server": "10.0.2.2",
    "script": "http://10.0.2.2:8080/boot.ipxe",
    "loader_uefi": "shimx64.efi",
}
FAR: dict[str, Any] = {
    "name": "far",
    "network": ipaddress.IPv4Network("10.9.0.0/24"),
    "first": ipaddress.IPv4Address("10.9.0.50"),
    "last": ipaddress.IPv4Address("10.9.0.60"),
    "interface": "eth1",
    "base": "http://10.0.1.2:8080",
    "next_server": "10.0.1.2",
    "script": "http://10.0.1.2:8080/boot.ipxe",
    "relay": "10.9.0.1",
    "lease_s": 600,
}
HOSTS = (
    Host("r1", "52:54:00:00:00:01", "10.0.1.11"),
    Host("r2.rack.example.net", "52:54:00:00:00:02", "10.0.1.12"),
    Host("r3", "52:54:00:00:00:03"),
)


def segment(**more: Any) -> Segment:
    return Segment(**{**RACK1, **more})


def network(mode: Mode) -> Network:
    near = (segment(), Segment(**RACK2))
    ours = mode is not Mode.EXTERNAL
    return Network(
        mode=mode,
        segments=(*near, Segment(**FAR)) if mode is Mode.FULL else near if ours else near[:1],
        hosts_file="/var/lib/baremetal/dhcp/hosts" if ours else "",
        lease_file="/var/lib/baremetal/dhcp/leases" if ours else "",
    )
