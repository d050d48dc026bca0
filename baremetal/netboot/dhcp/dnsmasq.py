"""The settings of dnsmasq, as text: for the child that we run (modes `full` and `proxy`), for the hosts file that it
reads again on SIGHUP, and for a dnsmasq of somebody else's (mode `external`).

Owns the syntax and dnsmasq's own ways, which are noted beside the lines; they were read in its source (2.90) and are
held by tests against the real program. Deliberately unknown: processes, files, where the values come from.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from baremetal.errors import Invalid
from baremetal.netboot.dhcp.offer import (
    ARM64,
    ARM64_HTTP,
    BIOS,
    HTTP,
    INSTALLER,
    PATH_PREFIX,
    X64,
    X64_HTTP,
    Host,
    Mode,
    Network,
    Segment,
)

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_RA_EVERY_S = 60


def config(network: Network) -> str:
    """Write the settings for a mode. Pure: the same values give the same text. Raises Invalid BM306."""
    parts = [_head(network), _clients(network.mode)]
    for segment in network.segments:
        parts.append(_segment(network.mode, segment))
    if network.mode is Mode.FULL and network.router_advertisements and network.interfaces:
        parts.append(_advertisements(network))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def hosts(known: Sequence[Host]) -> tuple[str, tuple[Host, ...]]:
    """Write the hosts file, one line per server with an address; also return those that had to be left out.

    Two servers with one MAC or one address would keep dnsmasq from starting (openwrt/openwrt#21362): the first by name
    keeps it, the others get an address from the range. Raises Invalid BM306 for what is no MAC or IPv4 address.
    """
    lines, left_out, taken = [], [], set[str]()
    for host in sorted(known, key=lambda host: host.name):
        if not host.address:
            continue
        if not _MAC.match(host.mac):
            raise Invalid(f"not a MAC: {host.mac[:40]!r}", code="BM306", server=host.name)
        try:
            address = str(ipaddress.IPv4Address(host.address))
        except ValueError:
            raise Invalid(
                f"not an IPv4 address: {host.address[:40]!r}", code="BM306", server=host.name
            ) from None
        if host.mac in taken or address in taken:
            left_out.append(host)
            continue
        taken |= {host.mac, address}
        name = host.name.partition(".")[0].lower()
        if not _HOSTNAME.match(name) or name in taken:
            name = ""
        taken.add(name)
        lines.append(",".join(part for part in (host.mac, address, name) if part))
    return "".join(f"{line}\n" for line in lines), tuple(left_out)


def _head(network: Network) -> list[str]:
    if network.mode is Mode.EXTERNAL:
        return ["# For a dnsmasq that already gives the addresses: what to boot, and nothing else."]
    lines = [
        f"# dnsmasq for netboot, mode {network.mode}. DHCP only: no DNS here, and TFTP is served by baremetal itself.",
        "port=0",
        "no-hosts",
        "no-resolv",
        "log-dhcp",
    ]
    # Not bind-interfaces: an interface may get its address late, and another dnsmasq (libvirt's) may serve the others.
    # With every interface there from the start the socket is bound to the device all the same.
    lines += [*(f"interface={name}" for name in network.interfaces), "bind-dynamic"]
    if network.mode is Mode.FULL:
        # Firmware, iPXE, installer and system name themselves differently; the MAC gives all of them one address.
        # No dhcp-authoritative: it would refuse the address that another server gave.
        lines += ["dhcp-ignore-clid"]
        if network.lease_file:
            lines += [f"dhcp-leasefile={_path(network.lease_file)}"]
        if network.hosts_file:
            lines += [f"dhcp-hostsfile={_path(network.hosts_file)}"]
    else:
        # A proxy holds no leases, but dnsmasq opens the file.
        lines += [f"dhcp-leasefile={_path(network.lease_file)}"] if network.lease_file else []
        # Without this it answers PXEClient alone, and UEFI HTTP boot hears nothing.
        lines += [f"dhcp-pxe-vendor=PXEClient,{HTTP}"]
    return lines


def _clients(mode: Mode) -> list[str]:
    lines = [
        "# Who asks. iPXE first: it still sends its firmware's architecture (option 93).",
        "dhcp-match=set:ipxe,175",
        "dhcp-userclass=set:ipxe,iPXE",
        "# The Debian installer would read a file name as a second preseed.",
        f"dhcp-vendorclass=set:installer,{INSTALLER}",
        "tag-if=set:firmware,tag:!ipxe,tag:!installer",
        f"dhcp-match=set:bios,option:client-arch,{BIOS}",
        *(f"dhcp-match=set:x64,option:client-arch,{arch}" for arch in (*X64, X64_HTTP)),
        *(f"dhcp-match=set:arm64,option:client-arch,{arch}" for arch in (ARM64, ARM64_HTTP)),
        f"dhcp-vendorclass=set:http,{HTTP}",
        *(f"dhcp-match=set:http,option:client-arch,{arch}" for arch in (X64_HTTP, ARM64_HTTP)),
    ]
    if mode is not Mode.PROXY:  # a proxy names the class by itself
        lines += [
            "# UEFI HTTP boot believes only an answer that says so.",
            f"dhcp-option-force=tag:firmware,tag:http,option:vendor-class,{HTTP}",
        ]
    return lines


def _segment(mode: Mode, segment: Segment) -> list[str]:
    tag = f"tag:{segment.name}," if mode is not Mode.EXTERNAL else ""
    lines = [f"# {segment.name}: {segment.network}"] if tag else []
    if mode is Mode.FULL:
        lines += _addresses(segment)
    elif mode is Mode.PROXY:
        lines += [
            f"dhcp-range=set:{segment.name},{segment.network.network_address},proxy,{segment.network.netmask}"
        ]
    next_server = segment.next_server
    lines += [
        f"dhcp-boot={tag}tag:firmware,tag:bios,{segment.loader_bios},,{next_server}",
        f"dhcp-boot={tag}tag:firmware,tag:x64,tag:!http,{segment.loader_uefi},,{next_server}",
        f"dhcp-boot={tag}tag:firmware,tag:x64,tag:http,{segment.loader_url(segment.loader_uefi)},,{next_server}",
        f"dhcp-boot={tag}tag:firmware,tag:arm64,tag:!http,{segment.loader_arm64},,{next_server}",
        f"dhcp-boot={tag}tag:firmware,tag:arm64,tag:http,{segment.loader_url(segment.loader_arm64)},,{next_server}",
        f"dhcp-boot={tag}tag:ipxe,tag:!installer,{segment.script},,{next_server}",
    ]
    if mode is Mode.PROXY:
        lines += _services(tag, segment)
    else:  # a proxy has no say in options
        lines += _prefixes(tag, segment)
    return lines


def _prefixes(tag: str, segment: Segment) -> Iterator[str]:
    """Yield option 210 for lpxelinux; forced, because firmware does not ask for it."""
    for who, file in (("firmware,tag:bios", segment.loader_bios), ("ipxe,tag:!installer", segment.script)):
        if prefix := segment.path_prefix(file):
            yield f"dhcp-option-force={tag}tag:{who},{PATH_PREFIX},{prefix}"


def _addresses(segment: Segment) -> list[str]:
    name = segment.name
    first = segment.first if segment.last is not None else segment.network.network_address
    last = segment.last if segment.last is not None else "static"
    broadcast = segment.broadcast or segment.network.broadcast_address
    lines = [
        f"dhcp-range=set:{name},{first},{last},{segment.network.netmask},{broadcast},{segment.lease_s}",
    ]
    routers = segment.routers
    if segment.relay and ipaddress.IPv4Address(segment.relay) not in segment.network:
        lines += [f"shared-network={segment.relay},{first}"]
    elif segment.relay and not routers:
        routers = (segment.relay,)
    # Without a value: none. Left out, dnsmasq would name itself.
    lines += [",".join((f"dhcp-option=tag:{name}", "option:router", *routers))]
    if segment.dns_servers:
        lines += [",".join((f"dhcp-option=tag:{name}", "option:dns-server", *segment.dns_servers))]
    return lines


def _services(tag: str, segment: Segment) -> Iterator[str]:
    """Yield the lines that UEFI (which asks a second time, at port 4011) and iPXE on BIOS need of a proxy.

    For UEFI there must be exactly one service per architecture, or a menu would be shown. iPXE on UEFI takes the file
    of dhcp-boot; on BIOS it ignores that one where a menu is sent, which is always.
    """
    services = [
        ("firmware", BIOS, segment.loader_bios),
        ("ipxe,tag:!installer", BIOS, segment.script),
        *(("firmware,tag:!http", arch, segment.loader_uefi) for arch in X64),
        ("firmware,tag:!http", ARM64, segment.loader_arm64),
    ]
    for who, arch, file in services:
        if "." not in file:
            # dnsmasq would add ".0", as PXE has it for files with layers.
            raise Invalid(f"a proxy cannot offer a file without a dot in its name: {file}", code="BM306")
        yield f'pxe-service={tag}tag:{who},{arch},"netboot",{file},{segment.next_server}'


def _advertisements(network: Network) -> list[str]:
    lines = [
        "# iPXE waits 13 s for a router's advertisement. Lifetime 0: we are nobody's router.",
        "enable-ra",
    ]
    for name in network.interfaces:
        lines += [f"dhcp-range=::,constructor:{name},ra-only", f"ra-param={name},{_RA_EVERY_S},0"]
    return lines


def _path(path: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9/_.+~@=-]*", path):
        raise Invalid(f"not a path that dnsmasq's settings can hold: {path[:120]!r}", code="BM306")
    return path
