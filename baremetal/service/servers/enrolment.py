"""What an operator says of a server, checked and brought to the one form in which it is kept.

Owns the rules for names, MACs, addresses, tags and quirks at the moment they enter. Deliberately unknown: the store,
duplicates, and what happens to the server afterwards.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from baremetal.drivers.base import BmcCredentials, BmcUrl
from baremetal.errors import Invalid
from baremetal.lifecycle.model import BootMode, BootTarget
from baremetal.netboot.variables import normal_mac, normal_uuid, validate_variables
from baremetal.store.records import Facts

# A server named like an id would inherit what was made for that id, its tokens too.
_ID = re.compile(r"[0-9a-f]{32}\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")
_TAG = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,62})\Z|[A-Za-z0-9]\Z")
_VALUE = re.compile(r"[A-Za-z0-9 ._:/@+-]{0,128}\Z")
_SERIAL = re.compile(r"[!-~]([ -~]{0,62}[!-~])?\Z")
ARCHITECTURES = ("x86_64", "arm64")

_NUMBER = re.compile(r"\d{1,3}(\.\d{1,3})?\Z")
QUIRKS: Mapping[str, re.Pattern[str]] = {
    "flip": re.compile(r"none\Z"),
    "efi": re.compile(r"(auto|never)\Z"),
    "local_boot": re.compile(r"(exit|next|sanboot|chain:https?://[A-Za-z0-9._~:/-]{1,200})\Z"),
    "min_interval": _NUMBER,
    "settle": _NUMBER,
    "grub": re.compile(r"(linux|linuxefi)\Z"),
    "grub_media": re.compile(r"(tftp|http)\Z"),
    "flags_unreadable": re.compile(r"\Z"),
    "san_gateway": re.compile(r"portal\Z"),
}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One server as it is given; `verify` false leaves it in *enroll*, `adopt` ends in *active*."""

    name: str
    bmc: str
    bmc_user: str | None = None
    bmc_password: str | None = field(default=None, repr=False)
    macs: Iterable[str] = ()
    boot_mode: str = ""
    arch: str = ""
    ip: str = ""
    boot_target: str = ""
    uuid: str = ""
    serial: str = ""
    vars: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    quirks: Iterable[str] = ()
    verify: bool = True
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class ServerChange:
    """What to set: None stays as it is; in `vars` and `tags` a value of None removes the key."""

    macs: Iterable[str] | None = None
    uuid: str | None = None
    serial: str | None = None
    arch: str | None = None
    bmc: str | None = None
    bmc_user: str | None = None
    bmc_password: str | None = field(default=None, repr=False)
    boot_mode: str | None = None
    boot_target: str | None = None
    ip: str | None = None
    vars: Mapping[str, str | None] | None = None
    tags: Mapping[str, str | None] | None = None
    quirks: Iterable[str] | None = None

    @property
    def touches_bmc(self) -> bool:
        return self.bmc is not None or self.bmc_user is not None or self.bmc_password is not None


def server_name(text: str) -> str:
    """Check a server's name (one label of RFC 1123, lower case). Raises Invalid."""
    if not _NAME.match(text) or _ID.match(text):
        raise Invalid(
            f"{text[:64]!r} is no name for a server",
            variable="name",
            fix="use a-z, 0-9 and '-', at most 48, beginning and ending with a letter or digit; not 32 hex digits",
        )
    return text


def first_facts(new: Enrolment) -> tuple[Facts, BmcCredentials]:
    """Check everything that is said of a new server. Raises Invalid naming what is wrong."""
    server_name(new.name)
    url, account = _account(new.bmc, new.bmc_user, new.bmc_password)
    if account is None:
        raise Invalid(
            f"{new.name}: the BMC's {'password' if url.user or new.bmc_user else 'user'} is missing",
            variable="bmc_password",
            fix="write ipmi://USER@HOST and give the password by prompt, --bmc-password-file, --bmc-password-stdin "
            "or BAREMETAL_BMC_PASSWORD",
        )
    macs = _macs(new.macs)
    if not macs:
        raise Invalid(
            f"{new.name}: at least one MAC is needed",
            variable="mac",
            fix="give --mac; the first is the boot NIC",
        )
    facts = Facts(
        bmc=_bare(url),
        bmc_identity=url.identity,
        macs=macs,
        uuid=normal_uuid(new.uuid) if new.uuid else "",
        serial=_serial(new.serial),
        arch=_arch(new.arch),
        boot_mode=_boot_mode(new.boot_mode),
        boot_target=_boot_target(new.boot_target),
        ip=_ip(new.ip),
        vars=_vars(new.vars),
        tags=_tags(new.tags),
        quirks=_quirks(new.quirks),
    )
    return facts, account


def changed_facts(
    facts: Facts, known: BmcCredentials, change: ServerChange
) -> tuple[Facts, BmcCredentials | None]:
    """Apply a change to what is known; the credentials come back only where they change. Raises Invalid."""
    account: BmcCredentials | None = None
    if change.touches_bmc:
        url, given = _account(change.bmc or facts.bmc, change.bmc_user, change.bmc_password)
        user = change.bmc_user or url.user or known.user
        # A password is never carried to another BMC behind the operator's back.
        password = change.bmc_password or url.password
        if password is None and url.identity == facts.bmc_identity:
            password = known.password
        if password is None:
            raise Invalid(
                "another BMC needs its own password",
                variable="bmc_password",
                fix="give it with --bmc-password-file",
            )
        account = given or BmcCredentials(user, password)
        facts = replace(facts, bmc=_bare(url), bmc_identity=url.identity)
    if change.macs is not None:
        macs = _macs(change.macs)
        if not macs:
            raise Invalid("a server keeps at least one MAC", variable="mac")
        facts = replace(facts, macs=macs)
    if change.uuid is not None:
        facts = replace(facts, uuid=normal_uuid(change.uuid) if change.uuid else "")
    if change.serial is not None:
        facts = replace(facts, serial=_serial(change.serial))
    if change.arch is not None:
        facts = replace(facts, arch=_arch(change.arch))
    if change.boot_mode is not None:
        facts = replace(facts, boot_mode=_boot_mode(change.boot_mode))
    if change.boot_target is not None:
        facts = replace(facts, boot_target=_boot_target(change.boot_target))
    if change.ip is not None:
        facts = replace(facts, ip=_ip(change.ip))
    if change.vars is not None:
        facts = replace(facts, vars=_vars(_merged(facts.vars, change.vars)))
    if change.tags is not None:
        facts = replace(facts, tags=_tags(_merged(facts.tags, change.tags)))
    if change.quirks is not None:
        facts = replace(facts, quirks=_quirks(change.quirks))
    return facts, account


def quirk(facts: Facts, name: str) -> str | None:
    """Return the value of one quirk of a server; "" for one without a value, None where it is not set."""
    for word in facts.quirks:
        key, _, value = word.partition("=")
        if key == name:
            return value
    return None


def _account(text: str, user: str | None, password: str | None) -> tuple[BmcUrl, BmcCredentials | None]:
    url = BmcUrl.parse(text)
    name, secret = user or url.user, password or url.password
    for what, value in (("user", name), ("password", secret)):
        if value is not None and any(ord(sign) < 32 or ord(sign) == 127 for sign in value):
            raise Invalid(f"the BMC's {what} holds a control character", variable=f"bmc_{what}")
    return url, BmcCredentials(name, secret) if name is not None and secret is not None else None


def _bare(url: BmcUrl) -> str:
    return replace(url, user=None, password=None).format()


def _macs(given: Iterable[str]) -> tuple[str, ...]:
    macs = tuple(normal_mac(mac) for mac in given)
    for mac in macs:
        if macs.count(mac) > 1:
            raise Invalid(f"the MAC {mac} is given twice", variable="mac")
    return macs


def _serial(text: str) -> str:
    text = text.strip()
    if text and not _SERIAL.match(text):
        raise Invalid(
            "not a serial number",
            variable="serial",
            fix="up to 64 printable characters, as dmidecode prints it",
        )
    return text


def _arch(text: str) -> str:
    known = {"": "x86_64", "amd64": "x86_64", "aarch64": "arm64"}.get(text, text)
    if known not in ARCHITECTURES:
        raise Invalid(
            f"no architecture {text[:32]!r}", variable="arch", fix=f"use {' or '.join(ARCHITECTURES)}"
        )
    return known


def _boot_mode(text: str) -> str:
    if text and text not in tuple(BootMode):
        raise Invalid(f"no boot mode {text[:32]!r}", variable="boot_mode", fix="use bios or uefi")
    return text or str(BootMode.BIOS)


def _boot_target(text: str) -> str:
    if text and text not in tuple(BootTarget):
        raise Invalid(
            f"no boot target {text[:32]!r}", variable="boot_target", fix=f"use {' or '.join(BootTarget)}"
        )
    return text or str(BootTarget.DISK)


def _ip(text: str) -> str:
    if not text:
        return ""
    if "/" not in text:
        raise Invalid(
            f"{text[:64]!r} has no prefix length",
            variable="ip",
            fix="write ADDRESS/PREFIX, for example 10.0.0.5/24",
        )
    try:
        return str(ipaddress.ip_interface(text.strip()))
    except ValueError as error:
        raise Invalid(f"{text[:64]!r} is no address", variable="ip", fix="write it as 10.0.0.5/24") from error


def _vars(given: Mapping[str, str]) -> dict[str, str]:
    validate_variables(given)
    return dict(given)


def _tags(given: Mapping[str, str]) -> dict[str, str]:
    for key, value in given.items():
        if not _TAG.match(key) or not _VALUE.match(value):
            raise Invalid(
                f"not a tag: {key[:64]!r}",
                variable="tags",
                fix="keys of letters, digits and . _ / -, values of at most 128 plain characters",
            )
    return dict(given)


def _quirks(given: Iterable[str]) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in given if word.strip()))
    for word in words:
        name, _, value = word.partition("=")
        form = QUIRKS.get(name)
        if form is None or not form.match(value):
            raise Invalid(
                f"no quirk {word[:64]!r}",
                variable="quirks",
                fix=f"known are {', '.join(QUIRKS)}; see docs/hardware.md",
            )
    return words


def _merged(old: Mapping[str, str], new: Mapping[str, str | None]) -> dict[str, str]:
    kept = {key: value for key, value in old.items() if key not in new}
    return kept | {key: value for key, value in new.items() if value is not None}
