"""What a DHCP server should tell a machine that asks what to boot: the rules, as values and one function.

Owns who gets which loader, for every DHCP server alike: our own dnsmasq, the settings that `print-config` writes for
others, and the probe that judges what others answer. Deliberately unknown: packets, and any server's syntax.

The rules, in the order in which they are tested:
- the Debian installer gets no file: it would read it as a second preseed;
- iPXE (option 175, or user class `iPXE`) gets the URL of its script. It still sends its firmware's architecture, so it
  is recognised before that, or it would be given itself for ever;
- firmware gets a loader by its architecture (option 93, RFC 4578 and IANA's "Processor Architecture Types"): a name for
  TFTP, or a URL for UEFI HTTP boot, which believes only an answer with option 60 = `HTTPClient`;
- lpxelinux.0, whoever gets it, comes with option 210 (RFC 5071): it then fetches everything else by HTTP from us;
- everything else, such as a running system, gets an address and no file.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from baremetal.errors import Invalid

BIOS: Final = 0
X64: Final = (7, 9)  # 7 is what x86-64 firmware sends, by an erratum of RFC 4578; 9 is what it should
ARM64: Final = 11
X64_HTTP: Final = 16
ARM64_HTTP: Final = 19
HTTP: Final = "HTTPClient"
INSTALLER: Final = "d-i"

PATH_PREFIX: Final = 210
LPXELINUX: Final = "lpxelinux.0"

LOADERS_PATH: Final = "loaders"  # below the public URL: where UEFI HTTP boot fetches what TFTP serves by name

_WORD = re.compile(r"[A-Za-z0-9/_.:%?=&+~\[\]@-]+\Z")
_LONGEST = 127  # a DHCP packet's field for the file, less its end mark


class Mode(StrEnum):
    """How much of DHCP is ours."""

    EXTERNAL = "external"
    PROXY = "proxy"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment on which machines boot. `last` is None where only known servers get an address."""

    name: str
    network: ipaddress.IPv4Network
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address | None
    interface: str
    base: str  # what machines of this segment call us: a URL without a slash at its end
    next_server: str
    script: str  # where iPXE is sent
    loader_bios: str = "undionly.kpxe"
    loader_uefi: str = "ipxe.efi"
    loader_arm64: str = "ipxe-arm64.efi"
    broadcast: str = ""
    routers: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    relay: str = ""
    lease_s: int = 2700

    def __post_init__(self) -> None:
        """Refuse what would be read as something else where it is written. Raises Invalid."""
        words = (
            self.name, self.interface, self.base, self.next_server, self.script, self.loader_bios, self.loader_uefi,
            self.loader_arm64, self.broadcast, self.relay, *self.routers, *self.dns_servers,
        )  # fmt: skip
        for text in words:
            if text and not _WORD.match(text):
                raise Invalid(f"not fit for a DHCP server's settings: {text[:80]!r}", code="BM306")
        for text in (self.script, self.loader_url(self.loader_uefi), self.loader_url(self.loader_arm64)):
            if len(text) > _LONGEST:
                raise Invalid(
                    f"a DHCP packet has room for {_LONGEST} characters of file name or URL",
                    code="BM306",
                    seen=f"{len(text)}: {text}",
                    fix="shorten public_url or filename",
                )

    def loader_url(self, loader: str) -> str:
        """Return where UEFI HTTP boot fetches a loader."""
        return f"{self.base}/{LOADERS_PATH}/{loader}"

    def path_prefix(self, file: str) -> str:
        """Return what a file's own requests begin with (option 210); empty for all that do not listen to it."""
        return f"{self.base}/" if file.rpartition("/")[2] == LPXELINUX else ""


@dataclass(frozen=True, slots=True)
class Network:
    """Everything that a DHCP server is told. The files are our own child's; both are empty in what is printed."""

    mode: Mode
    segments: tuple[Segment, ...]
    router_advertisements: bool = True
    hosts_file: str = ""
    lease_file: str = ""

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The interfaces that are listened on, each once."""
        return tuple(dict.fromkeys(segment.interface for segment in self.segments if segment.interface))


@dataclass(frozen=True, slots=True)
class Host:
    """A server under care, as DHCP sees it: the MAC that netboots, and the address that is kept for it."""

    name: str
    mac: str
    address: str = field(default="")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, by what it says of itself in its DHCPDISCOVER."""

    arch: int | None = None
    ipxe: bool = False
    http: bool = False
    installer: bool = False

    @property
    def machine(self) -> str:
        """Which machines have such firmware, as iPXE names them: x86_64, arm64, or "" where nothing was said."""
        if self.arch in (BIOS, *X64, X64_HTTP):
            return "x86_64"
        return "arm64" if self.arch in (ARM64, ARM64_HTTP) else ""

    def __str__(self) -> str:
        if self.installer:
            return "the Debian installer"
        who = {
            None: "a system",
            BIOS: "BIOS firmware",
            X64[0]: "x86-64 UEFI",
            X64[1]: "x86-64 UEFI",
            ARM64: "arm64 UEFI",
            X64_HTTP: "x86-64 UEFI HTTP boot",
            ARM64_HTTP: "arm64 UEFI HTTP boot",
        }.get(self.arch, f"architecture {self.arch}")
        return f"iPXE on {who}" if self.ipxe else who


@dataclass(frozen=True, slots=True)
class Offer:
    """What it is told: a file name for TFTP or a URL, the TFTP server (where that matters), options 60 and 210."""

    file: str
    next_server: str = ""
    vendor_class: str = ""
    path_prefix: str = ""


def offer(segment: Segment, client: Client) -> Offer | None:
    """Return what a machine is to boot, or None where it is told nothing: it gets an address at most."""
    if client.installer:
        return None
    if client.ipxe:
        return _offer(segment, segment.script)
    http = client.http or client.arch in (X64_HTTP, ARM64_HTTP)
    if client.arch == BIOS:
        return _offer(segment, segment.loader_bios)
    if client.arch in (*X64, X64_HTTP):
        loader = segment.loader_uefi
    elif client.arch in (ARM64, ARM64_HTTP):
        loader = segment.loader_arm64
    else:
        return None
    if http:
        return Offer(segment.loader_url(loader), vendor_class=HTTP)
    return _offer(segment, loader)


def _offer(segment: Segment, file: str) -> Offer:
    return Offer(file, segment.next_server, path_prefix=segment.path_prefix(file))


@dataclass(frozen=True, slots=True)
class Rule:
    """Firmware of these architectures gets this: the table form of `offer`, for servers that are configured by one."""

    name: str
    arches: tuple[int, ...]
    offer: Offer


def rules(segment: Segment) -> tuple[Rule, ...]:
    """Return what firmware gets on a segment, by architecture. iPXE and the installer come before these."""
    table = (
        ("bios", (BIOS,), False),
        ("x64", X64, False),
        ("arm64", (ARM64,), False),
        ("x64-http", (X64_HTTP,), True),
        ("arm64-http", (ARM64_HTTP,), True),
    )
    found = (
        (name, arches, offer(segment, Client(arch=arches[0], http=http))) for name, arches, http in table
    )
    return tuple(Rule(name, arches, told) for name, arches, told in found if told is not None)
