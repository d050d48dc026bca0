"""From settings to the values that DHCP is described with, for the service and for `print-config` alike.

Owns the defaults that one setting takes from another. Knows nothing of any DHCP server's syntax.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from baremetal.config.settings import Config, SubnetConfig, split_listen
from baremetal.netboot.dhcp.interface import address_of, own_address
from baremetal.netboot.dhcp.offer import Mode, Network, Segment


def network(config: Config, base: str = "", *, mode: Mode | None = None) -> Network:
    """Describe DHCP as the settings want it. `base`: how machines reach us, where a segment does not say.

    Where there is no `[[dhcp.subnet]]` (mode external) one segment stands for all: the network of our own address.
    """
    dhcp = config.dhcp
    subnets = dhcp.subnet or [_anywhere(config)]
    segments = tuple(_segment(config, subnet, base, number) for number, subnet in enumerate(subnets, 1))
    mode = mode or Mode(dhcp.mode)
    ours = mode is not Mode.EXTERNAL
    return Network(
        mode=mode,
        segments=segments,
        router_advertisements=dhcp.router_advertisements,
        hosts_file=str(config.dhcp_dir / "hosts") if ours else "",
        lease_file=str(config.dhcp_dir / "leases") if ours else "",
    )


def public_url(config: Config, address: str = "", port: int | None = None) -> str:
    """Return how machines reach the boot app: as it is set, else by our address. `port`: the bound one, if it was 0."""
    if config.server.public_url:
        return config.server.public_url
    host, number = split_listen(config.server.boot_listen)
    if host in ("0.0.0.0", "::", ""):
        host = address or own_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port or number}"


def segment_urls(config: Config) -> tuple[tuple[ipaddress.IPv4Network, str], ...]:
    """List the segments whose machines call us by a URL of their own; the narrowest network first."""
    own = ((subnet.network, subnet.public_url) for subnet in config.dhcp.subnet if subnet.public_url)
    return tuple(sorted(own, key=lambda one: -one[0].prefixlen))


def url_for(client: str, urls: Sequence[tuple[ipaddress.IPv4Network, str]]) -> str:
    """Return what machines of this address's segment call us; empty where the segment has no URL of its own."""
    if not urls:
        return ""
    try:
        address = ipaddress.IPv4Address(client)
    except ValueError:
        return ""
    return next((url for segment, url in urls if address in segment), "")


def _segment(config: Config, subnet: SubnetConfig, base: str, number: int) -> Segment:
    dhcp = config.dhcp
    interface = subnet.interface or dhcp.interface
    ours = subnet.next_server or dhcp.next_server or (address_of(interface) if interface else "") or ""
    base = subnet.public_url or config.server.public_url or base or public_url(config, ours)
    first, last = subnet.bounds
    return Segment(
        name=subnet.name or f"net{number}",
        network=subnet.network,
        first=first,
        last=last,
        interface=interface,
        base=base,
        next_server=ours or _literal(base) or own_address(),
        script=subnet.filename or dhcp.filename or f"{base}/boot.ipxe",
        loader_bios=dhcp.loader_bios,
        loader_uefi=subnet.loader_uefi or dhcp.loader_uefi,
        loader_arm64=dhcp.loader_arm64,
        broadcast=subnet.broadcast,
        routers=tuple(subnet.routers),
        dns_servers=tuple(subnet.dns_servers),
        relay=subnet.relay,
        lease_s=subnet.lease_s or dhcp.lease_s,
    )


def _literal(base: str) -> str:
    """Return the host of a URL where it is an IPv4 address, which DHCP's next-server must be."""
    host = urlsplit(base).hostname or ""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""


def _anywhere(config: Config) -> SubnetConfig:
    ours = config.dhcp.next_server or _literal(config.server.public_url) or own_address()
    here = ipaddress.IPv4Network(f"{ours}/24", strict=False)
    return SubnetConfig(range=str(here.network_address), mask=str(here.netmask))
