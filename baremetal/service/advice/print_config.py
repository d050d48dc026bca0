"""The settings of other programs, for this installation's addresses: DHCP servers of others, nginx, systemd.

Owns what each is told and the templates' values (`netboot/configs/*.j2`; Kea's is built as JSON). Who gets which loader
is `netboot/dhcp/offer.py`'s. Deliberately unknown: where the settings came from, and whether the service runs.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from baremetal.errors import Invalid, Unknown
from baremetal.netboot.dhcp import dnsmasq
from baremetal.netboot.dhcp.offer import HTTP, INSTALLER, PATH_PREFIX, Host, Mode, Network, Segment, rules
from baremetal.netboot.render import render_text
from baremetal.netboot.templates import Templates

# They ask for nothing else by TFTP; pxelinux and GRUB come back for answers that are computed.
_GO_ON: Final = frozenset(
    ("undionly.kpxe", "ipxe.pxe", "ipxe.efi", "snponly.efi", "ipxe-arm64.efi", "snponly-arm64.efi")
)
_PATH = re.compile(r"/[A-Za-z0-9/_.+~@=-]*\Z")


@dataclass(frozen=True, slots=True)
class Site:
    """This installation. `is_placed`: segments are those of the settings, not a guess from our own address."""

    network: Network
    is_placed: bool
    hosts: tuple[Host, ...] = ()
    data_dir: Path = Path("/var/lib/baremetal")
    media_dir: Path = Path("/var/lib/baremetal/media")
    boot_listen: tuple[str, int] = ("0.0.0.0", 8080)
    tftp_port: int | None = None
    control_port: int = 8000
    executable: str = "/opt/baremetal/bin/baremetal"
    config_file: str = ""
    user: str = "baremetal"


def text(target: str, site: Site) -> str:
    """Write the settings of one program. Raises Unknown for a target that is none, Invalid BM306."""
    if target not in TARGETS:
        raise Unknown(f"no settings are written for {target!r}", fix=f"one of {', '.join(TARGETS)}")
    return TARGETS[target](site).rstrip("\n") + "\n"


def _dnsmasq(site: Site) -> str:
    network = site.network
    if network.mode is not Mode.EXTERNAL:
        return dnsmasq.config(network)
    known, _ = dnsmasq.hosts(site.hosts)
    return _for_others_dnsmasq(network) + "".join(f"dhcp-host={line}\n" for line in known.splitlines())


def _for_others_dnsmasq(network: Network) -> str:
    """Write the boot lines for a dnsmasq whose ranges are not ours to name: one answer for all its segments."""
    return dnsmasq.config(replace(network, mode=Mode.EXTERNAL, segments=network.segments[:1]))


def _rendered(name: str, site: Site) -> str:
    return render_text(Templates.with_own().text(f"configs/{name}"), f"configs/{name}", _values(site))


def _values(site: Site) -> dict[str, Any]:
    known, _ = dnsmasq.hosts(site.hosts)  # checks them, and leaves out what is given twice
    hosts = [_host(line.split(",")) for line in known.splitlines()]
    return {
        "segments": [_segment(segment, hosts) for segment in site.network.segments],
        "placed": site.is_placed,
        "hosts": hosts,
        "dnsmasq": _for_others_dnsmasq(site.network),
        **_paths(site),
        **_rights(site),
    }


def _host(fields: list[str]) -> dict[str, str]:
    mac, address, *name = fields
    digits = mac.replace(":", "")
    return {
        "mac": mac,
        "address": address,
        "name": name[0] if name else f"mac-{digits}",
        "mac_h3c": "-".join(digits[at : at + 4] for at in (0, 4, 8)),
    }


def _segment(segment: Segment, hosts: list[dict[str, str]]) -> dict[str, Any]:
    relay = segment.relay
    inside = bool(relay) and ipaddress.IPv4Address(relay) in segment.network
    return {
        "name": segment.name,
        "network": str(segment.network),
        "address": str(segment.network.network_address),
        "mask": str(segment.network.netmask),
        "broadcast": segment.broadcast or str(segment.network.broadcast_address),
        "first": str(segment.first),
        "last": str(segment.last or ""),
        "routers": list(segment.routers) or ([relay] if inside else []),
        "dns_servers": list(segment.dns_servers),
        "lease_s": segment.lease_s,
        "next_server": segment.next_server,
        "script": segment.script,
        "script_prefix": segment.path_prefix(segment.script),
        "hosts": [host for host in hosts if ipaddress.IPv4Address(host["address"]) in segment.network],
        "rules": [
            {
                "name": rule.name,
                "arches": [
                    {"number": arch, "isc": f"00:{arch:02x}", "hex": f"0x{arch:04x}", "plain": f"{arch:04x}"}
                    for arch in rule.arches
                ],
                "file": rule.offer.file,
                "vendor_class": rule.offer.vendor_class,
                "path_prefix": rule.offer.path_prefix,
            }
            for rule in rules(segment)
        ],
    }


def _paths(site: Site) -> dict[str, Any]:
    paths = {
        "data_dir": str(site.data_dir),
        "media_dir": str(site.media_dir),
        "executable": site.executable,
        "config_file": site.config_file,
    }
    for what, path in paths.items():
        if path and not _PATH.match(path):
            raise Invalid(f"{what} cannot stand in other programs' settings: {path[:120]!r}", code="BM306")
    host, port = site.boot_listen
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    inside = site.data_dir.parent == Path("/var/lib") and site.data_dir.name
    return {
        **paths,
        "user": site.user,
        "upstream": f"{f'[{host}]' if ':' in host else host}:{port}",
        "state_directory": site.data_dir.name if inside else "",
    }


def _rights(site: Site) -> dict[str, Any]:
    """Say which capabilities the service needs: none, unless a low port or DHCP is its own."""
    dhcp = site.network.mode is not Mode.EXTERNAL
    ports = {
        "the boot app": site.boot_listen[1],
        "the control app": site.control_port,
        "TFTP": site.tftp_port or 1024,
    }
    low = [f"{what} on port {port}" for what, port in ports.items() if 0 < port < 1024]
    why = [*low, *(["dnsmasq, our child"] if dhcp else [])]
    return {
        "dhcp": dhcp,
        "capabilities": (["CAP_NET_ADMIN", "CAP_NET_RAW"] if dhcp else [])
        + (["CAP_NET_BIND_SERVICE"] if why else []),
        "reason": f"For {', '.join(why)}." if why else "",
    }


# ---- Kea

_KEA_PREFIX: Final = "path-prefix"


def _kea(site: Site) -> str:
    known, _ = dnsmasq.hosts(site.hosts)
    hosts = [_host(line.split(",")) for line in known.splitlines()]
    settings = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": list(site.network.interfaces) or ["*"]},
            "lease-database": {"type": "memfile", "persist": True},
            # Firmware, iPXE, installer and system name themselves differently; the MAC gives them one address.
            "match-client-id": False,
            **_kea_definitions(site),
            "client-classes": [*_kea_common(), *(c for s in site.network.segments for c in _kea_classes(s))],
            "subnet4": [_kea_subnet(n, s, hosts) for n, s in enumerate(site.network.segments, 1)],
        }
    }
    head = "// Kea, for /etc/kea/kea-dhcp4.conf (2.2 to 2.6). Check: kea-dhcp4 -t FILE\n"
    return head + json.dumps(settings, indent=2) + "\n"


def _kea_definitions(site: Site) -> dict[str, Any]:
    """Define the one option that Kea does not know, where it is used."""
    if not any(
        segment.path_prefix(file)
        for segment in site.network.segments
        for file in (segment.script, segment.loader_bios)
    ):
        return {}
    return {"option-def": [{"name": _KEA_PREFIX, "code": PATH_PREFIX, "type": "string"}]}


def _kea_common() -> list[dict[str, Any]]:
    return [
        {"name": "installer", "test": f"substring(option[60].hex, 0, {len(INSTALLER)}) == '{INSTALLER}'"},
        {
            "name": "ipxe",
            "test": "not member('installer') and (option[175].exists or option[77].hex == 'iPXE')",
        },
        {"name": "firmware", "test": "not member('installer') and not member('ipxe') and option[93].exists"},
    ]


def _kea_classes(segment: Segment) -> list[dict[str, Any]]:
    """Build the classes of one segment; they are looked at only for a subnet that asks for them."""
    found: list[dict[str, Any]] = [
        {
            "name": f"{segment.name}-ipxe",
            "test": "member('ipxe')",
            "only-if-required": True,
            "next-server": segment.next_server,
            "boot-file-name": segment.script,
        }
    ]
    for rule in rules(segment):
        arches = " or ".join(f"option[93].hex == 0x{arch:04x}" for arch in rule.arches)
        one: dict[str, Any] = {
            "name": f"{segment.name}-{rule.name}",
            "test": f"member('firmware') and ({arches})",
            "only-if-required": True,
            "next-server": segment.next_server,
            "boot-file-name": rule.offer.file,
        }
        if rule.offer.vendor_class:
            one["option-data"] = [{"name": "vendor-class-identifier", "data": HTTP, "always-send": True}]
        found.append(one)
    for one in found:
        if prefix := segment.path_prefix(one["boot-file-name"]):
            one["option-data"] = [{"name": _KEA_PREFIX, "data": prefix, "always-send": True}]
    return found


def _kea_subnet(number: int, segment: Segment, hosts: list[dict[str, str]]) -> dict[str, Any]:
    values = _segment(segment, hosts)
    options = [
        {"name": name, "data": ", ".join(data)}
        for name, data in (("routers", values["routers"]), ("domain-name-servers", values["dns_servers"]))
        if data
    ]
    subnet: dict[str, Any] = {
        "id": number,
        "subnet": values["network"],
        "pools": [{"pool": f"{values['first']} - {values['last']}"}] if values["last"] else [],
        "valid-lifetime": segment.lease_s,
        "option-data": options,
        "require-client-classes": [c["name"] for c in _kea_classes(segment)],
        "reservations": [
            {"hw-address": host["mac"], "ip-address": host["address"], "hostname": host["name"]}
            for host in values["hosts"]
        ],
    }
    if segment.relay:
        subnet["relay"] = {"ip-addresses": [segment.relay]}
    elif segment.interface:
        subnet["interface"] = segment.interface
    return subnet


def _tftp(site: Site) -> str:
    """Write the script that fills another machine's TFTP folder: what is static, and nothing that is computed."""
    segment = site.network.segments[0]
    named = dict.fromkeys(
        loader
        for one in site.network.segments
        for loader in (one.loader_bios, one.loader_uefi, one.loader_arm64)
    )
    loaders = [name for name in named if name.lower() in _GO_ON]
    if not loaders:
        raise Invalid(
            "only iPXE can begin at another TFTP server",
            code="BM306",
            seen=", ".join(named),
            fix="name an iPXE as loader_bios or loader_uefi, or serve TFTP by [tftp] listen",
        )
    files = [[segment.loader_url(name), name] for name in loaders]
    # What builds of iPXE look for beside themselves, and what a DHCP server that knows no URLs may name.
    files += [[f"{segment.base}/boot.ipxe", name] for name in ("boot.ipxe", "autoexec.ipxe")]
    text = Templates.with_own().text("configs/tftp.sh.j2")
    return render_text(text, "configs/tftp.sh.j2", {"files": files})


TARGETS: Final[Mapping[str, Callable[[Site], str]]] = {
    "dnsmasq": _dnsmasq,
    "isc": partial(_rendered, "isc.conf.j2"),
    "kea": _kea,
    "routeros": partial(_rendered, "routeros.rsc.j2"),
    "openwrt": partial(_rendered, "openwrt.sh.j2"),
    "h3c": partial(_rendered, "h3c.txt.j2"),
    "synology": partial(_rendered, "synology.txt.j2"),
    "tftp": _tftp,
    "nginx": partial(_rendered, "nginx.conf.j2"),
    "systemd": partial(_rendered, "baremetal.service.j2"),
}
