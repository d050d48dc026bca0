"""What every driver of a BMC looks like from above, and how a BMC is addressed.

Owns the conversation protocol (`BmcDriver`), its values, and the BMC URL. Deliberately knows no wire protocol, no
retries, no lock, no circuit breaker: a driver's only judgement is the kind of the `BmcError` it raises; the rest is
`engine/conversations.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from baremetal.errors import Invalid
from baremetal.lifecycle.model import BootDevice, PowerState

__all__ = [
    "BmcCredentials",
    "BmcDriver",
    "BmcInfo",
    "BmcUrl",
    "BootDevice",
    "BootFlags",
    "Deadlines",
    "Permit",
    "PowerState",
    "PowerTarget",
]

Permit = Callable[[], None]
"""Called in the parent just before the first byte of a write is sent; raises (`Superseded`) to forbid it."""


class PowerTarget(StrEnum):
    """What power may be asked to become. `soft-off` and `reset` are for operators; no workflow uses them."""

    ON = "on"
    OFF = "off"
    SOFT_OFF = "soft-off"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class BmcInfo:
    """What a BMC says of itself: the proof that address and credentials are right."""

    vendor: str = ""
    product: str = ""
    firmware: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class BootFlags:
    """The boot device override as the BMC stores it (IPMI 2.0 §28.13, parameter 5).

    `valid` is None where the BMC marks the whole parameter invalid or locked: the other fields are then worth nothing.
    `device` is None for a selector that we have no word for. A cleared valid bit may well stand beside a device.
    """

    valid: bool | None
    device: BootDevice | None
    persistent: bool = False
    efi: bool = False


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each call of a conversation may last, in monotonic seconds (promises, BMC conversation rules)."""

    connect_s: float = 12.0
    read_s: float = 15.0
    write_s: float = 35.0


class BmcDriver(Protocol):
    """One open conversation with one BMC: synchronous, every call bounded, nothing raised but `BmcError`.

    What `permit` raises passes through unchanged, and then nothing was sent. Writes are not verified here.
    """

    def check(self) -> BmcInfo:
        """Ask the BMC who it is; proves address and credentials."""

    def power(self) -> PowerState:
        """Read the power state."""

    def set_power(self, target: PowerTarget, permit: Permit) -> None:
        """Ask for a power state once. Off when off may raise CONFLICT."""

    def boot_device(self) -> BootFlags:
        """Read the boot device override as it is stored."""

    def set_boot_device(self, device: BootDevice, *, persistent: bool, efi: bool, permit: Permit) -> None:
        """Store a boot device override; NONE clears it. Idempotent."""

    def close(self) -> None:
        """End the conversation, freeing the BMC's session slot if it still answers. Never raises; idempotent."""


@dataclass(frozen=True, slots=True)
class BmcCredentials:
    """A BMC account. Neither `repr` nor `str` shows the password."""

    user: str
    password: str = field(repr=False)


_PORTS = {"ipmi": 623, "redfish": 80, "redfish+https": 443, "sim": 0}
_PRIVILEGES = ("callback", "user", "operator", "administrator")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\Z")
_BRIDGE = re.compile(r"(0x[0-9a-f]{1,2})(:(0x[0-9a-f]{1,2}|\d{1,2}))?\Z")


@dataclass(frozen=True, slots=True)
class BmcUrl:
    """`scheme://[user[:password]@]host[:port][/system][?option=value&…]`.

    Options: `privilege` (callback, user, operator, administrator; by default administrator, or operator where the BMC
    grants no more), `cipher` (RMCP+ suite number), `bridge` (slave address
    in hex, optionally `:channel`), `min_interval` (seconds between conversations). `sim://` takes any further option.
    Reserved characters in user and password are percent-encoded.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    system: str = ""
    bridge: str | None = None
    privilege: str | None = None
    cipher: int | None = None
    min_interval_s: float | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> BmcUrl:
        """Read a URL. Raises `Invalid` naming the part that is wrong, never quoting the password."""
        scheme, found, _ = text.strip().partition("://")
        scheme = scheme.lower()
        if not found or scheme not in _PORTS:
            known = ", ".join(f"{name}://" for name in _PORTS)
            raise Invalid(
                f"BMC URL: the scheme {scheme[:20]!r} is not known"
                if found
                else "BMC URL: there is no scheme",
                fix=f"write one of {known}, for example ipmi://admin@10.0.0.1",
            )
        account, _, _ = text.partition("://")[2].rpartition("@")
        if any(sign in account for sign in "/?#[]"):
            # found before anything is quoted: what follows would take half a password for host and port
            raise Invalid(
                "BMC URL: user or password holds a '/', '?', '#', '[' or ']'",
                fix="percent-encode it (%2F %3F %23 %5B %5D), or leave the password out of the URL",
            )
        parts = _split(text.strip())
        user, password = _account(parts.netloc)
        host, port = _place(parts.netloc, scheme)
        if parts.fragment or "#" in text:
            raise Invalid("BMC URL: '#' has no meaning here")
        system = unquote(parts.path).strip("/")
        if system and not scheme.startswith("redfish"):
            raise Invalid("BMC URL: a path after the host has no meaning")
        known_options, others = _options(parts.query, scheme)
        return cls(
            scheme=scheme,
            host=host,
            port=port,
            user=user,
            password=password,
            system=system,
            bridge=_bridge(known_options.get("bridge")),
            privilege=_privilege(known_options.get("privilege")),
            cipher=_cipher(known_options.get("cipher")),
            min_interval_s=_seconds(known_options.get("min_interval")),
            options=others,
        )

    @property
    def identity(self) -> str:
        """What is locked, frozen and paced: the BMC's place, without account or options but with bridge or system."""
        place = f"{self.scheme}://{self._hostport()}"
        if self.system:
            place += f"/{self.system}"
        return place + (f"?bridge={self.bridge}" if self.bridge else "")

    @property
    def credentials(self) -> BmcCredentials | None:
        """The account, when the URL carries a whole one."""
        if self.user is None or self.password is None:
            return None
        return BmcCredentials(self.user, self.password)

    def format(self, *, password: bool = False) -> str:
        """Write the URL again; the password only when asked for in so many words."""
        account = ""
        if self.user is not None:
            account = quote(self.user, safe="")
            if password and self.password is not None:
                account += f":{quote(self.password, safe='')}"
            account += "@"
        options = list(self.options)
        if self.bridge:
            options.append(("bridge", self.bridge))
        if self.privilege is not None:
            options.append(("privilege", self.privilege))
        if self.cipher is not None:
            options.append(("cipher", str(self.cipher)))
        if self.min_interval_s is not None:
            options.append(("min_interval", f"{self.min_interval_s:g}"))
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe=':,.')}" for name, value in options)
        path = f"/{quote(self.system)}" if self.system else ""
        return f"{self.scheme}://{account}{self._hostport()}{path}" + (f"?{query}" if query else "")

    def __str__(self) -> str:
        return self.format()

    def _hostport(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


class _Parts(Protocol):
    """The part of urllib's result that is used here."""

    @property
    def netloc(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def fragment(self) -> str: ...


def _split(text: str) -> _Parts:
    try:
        return urlsplit(text)
    except ValueError:
        # urllib's own message may quote the netloc, and with it the password
        raise Invalid(
            "BMC URL: the host is malformed",
            fix="write an IPv6 address in brackets; percent-encode '[' and ']' elsewhere",
        ) from None


def _account(netloc: str) -> tuple[str | None, str | None]:
    account, at, _ = netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = account.partition(":")
    # IPMI 2.0 §22.28, §22.30: 16 bytes of user name, 20 of password; other protocols allow more, and say so themselves
    for name, value in (("user", user), ("password", password)):
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in unquote(value)):
            raise Invalid(f"BMC URL: the {name} holds a control character")
    return unquote(user), unquote(password) if colon else None


def _place(netloc: str, scheme: str) -> tuple[str, int]:
    _, _, place = netloc.rpartition("@")
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        if not closed or ":" not in host or not _IPV6.match(host):
            raise Invalid(f"BMC URL: the IPv6 address {host!r} is malformed", fix="write it as [2001:db8::1]")
        if rest and not rest.startswith(":"):
            raise Invalid("BMC URL: after ']' only :port may follow")
        port_text = rest[1:]
    else:
        host, _, port_text = place.partition(":")
        if ":" in port_text:
            raise Invalid("BMC URL: the host holds several ':'", fix="write an IPv6 address in brackets")
        if not host:
            raise Invalid("BMC URL: the host is missing", fix="write for example ipmi://admin@10.0.0.1")
        if not _HOST.match(host):
            raise Invalid(f"BMC URL: the host {host!r} is neither a name nor an address")
        host = host if scheme == "sim" else host.lower()
    if not port_text:
        return host, _PORTS[scheme]
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise Invalid(f"BMC URL: the port {port_text!r} is not a number from 1 to 65535")
    return host, int(port_text)


def _options(query: str, scheme: str) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    known: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for part in query.split("&") if query else ():
        name, _, value = (unquote(piece) for piece in part.partition("="))
        if name in ("privilege", "cipher", "bridge", "min_interval"):
            if name in known:
                raise Invalid(f"BMC URL: the option {name!r} stands there twice")
            known[name] = value
        elif scheme == "sim":
            others.append((name, value))
        else:
            raise Invalid(
                f"BMC URL: the option {name!r} is not known",
                fix="write privilege=, cipher=, bridge= or min_interval=",
            )
    return known, tuple(others)


def _bridge(text: str | None) -> str | None:
    if text is not None and not _BRIDGE.match(text.lower()):
        raise Invalid(
            f"BMC URL: the bridge {text!r} is not a slave address", fix="write for example bridge=0x82:7"
        )
    return text.lower() if text else None


def _privilege(text: str | None) -> str | None:
    if text is None:
        return None
    if text.lower() not in _PRIVILEGES:
        raise Invalid(
            f"BMC URL: the privilege {text!r} is not known", fix=f"write one of {', '.join(_PRIVILEGES)}"
        )
    return text.lower()


def _cipher(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > 255:
        raise Invalid(
            f"BMC URL: the cipher suite {text!r} is not a number",
            fix="write for example cipher=17 or cipher=3",
        )
    return int(text)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text):
        raise Invalid(f"BMC URL: min_interval={text!r} is not a number of seconds")
    return float(text)
