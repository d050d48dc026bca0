"""What a machine says with a signal, read with suspicion.

Owns the fields of call-backs, their bounds, and the comparison of a machine with the server it claims to be. A field
that is malformed is an error; a field that nobody knows is passed over, because installers' tools add their own.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import asdict

from baremetal.errors import Invalid
from baremetal.lifecycle.model import Disk, Signal
from baremetal.netboot.variables import normal_mac
from baremetal.service.servers.inventory import read_inventory
from baremetal.store.records import Facts
from baremetal.telemetry import redact_text

DEPTH = 16
_MOST = 256
_BOOT_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_DISK = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}\Z")
# ssh-dss is of no use to us, and cloud-init still makes one: it must not keep the others from being heard.
_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ssh-dss|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{40,4096}={0,3}( [ -~]{0,200})?\Z"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_UNPRINTED = re.compile(r"[^\x09\x0a\x20-\x7e\u00a0-\ufffd]")


@dataclass(frozen=True, slots=True)
class News:
    """The fields of one signal, checked."""

    boot_id: str = ""
    macs: tuple[str, ...] = ()
    uuid: str = ""
    serial: str = ""
    disks: tuple[Disk, ...] = ()
    disk: str = ""
    stage: str = ""
    percent: int | None = None
    message: str = ""
    log: str = ""
    ssh_host_keys: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    run: str = ""
    inventory: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """What is said for people."""
        percent = f"{self.percent} %" if self.percent is not None else ""
        return " ".join(part for part in (percent, self.message) if part)

    @property
    def disk_names(self) -> tuple[str, ...]:
        """The disks as a wipe names them: each by its name and, where it has one, its serial number."""
        return tuple(f"{disk.name} {disk.serial}".strip() for disk in self.disks)

    def facts(self, signal: Signal, *, clone: bool = False) -> dict[str, Any]:
        """What goes to the run's record with this signal; empty fields never overwrite what is known.

        `clone`: no installer has spoken before this system's first boot.
        """
        match signal:
            case Signal.INSTALL_STARTED:
                found: dict[str, Any] = {"boot_id": self.boot_id, "disk": self.disk, "disks": self.disks}
            case Signal.WIPE_STARTED:
                found = {"boot_id": self.boot_id, "disks": self.disks}
            case Signal.INSPECT_COMPLETE:
                found = {"disks": self.disks, "inventory": self.inventory}
            case Signal.INSTALL_COMPLETE | Signal.RESCUE_STARTED:
                found = {"ssh_host_keys": self.ssh_host_keys, "addresses": self.addresses}
            case Signal.FIRST_BOOT:
                # The host keys were pinned when the installer reported them; a later word does not change them.
                found = {"addresses": self.addresses}
                if clone:
                    found["ssh_host_keys"] = self.ssh_host_keys
            case _:
                found = {}
        if "disks" in found:
            found["disks"] = [asdict(disk) for disk in self.disks]
        return {name: value for name, value in found.items() if value}


def read_news(fields: Mapping[str, Any]) -> News:
    """Check the fields of a call-back; lists may come as JSON text in one field. Raises Invalid."""
    disks = tuple(_disk(item) for item in _list(fields, "disks"))
    return News(
        boot_id=_word(fields, "boot_id", _BOOT_ID),
        macs=tuple(mac for item in _list(fields, "macs") if (mac := _mac(item))),
        uuid=_line(fields, "uuid", 64).lower(),
        serial=_line(fields, "serial", 128),
        disks=disks,
        disk=_word(fields, "disk", _DISK),
        stage=_line(fields, "stage", 64),
        percent=_percent(fields.get("percent")),
        message=redact_text(_line(fields, "message", 500)),
        log=redact_text(_UNPRINTED.sub("?", _text(fields, "log")))[-32768:],
        ssh_host_keys=tuple(_key(item) for item in _list(fields, "ssh_host_keys")),
        addresses=tuple(address for item in _list(fields, "addresses") if (address := _address(item))),
        run=_line(fields, "run", 128),
        inventory=_inventory(fields, disks),
    )


def mismatch(facts: Facts, news: News) -> str | None:
    """Say how the machine that reports differs from the server it should be; None where nothing speaks against it."""
    if news.macs and not set(news.macs) & set(facts.macs):
        return f"this machine has none of the server's MACs (it has {', '.join(news.macs[:8])})"
    if news.uuid and facts.uuid and news.uuid not in (facts.uuid, swapped_uuid(facts.uuid)):
        return f"this machine's UUID is {news.uuid}, the server's is {facts.uuid}"
    if news.serial and facts.serial and news.serial != facts.serial:
        return f"this machine's serial number is {news.serial!r}, the server's is {facts.serial!r}"
    return None


def swapped_uuid(uuid: str) -> str:
    """Return a UUID with its first three fields in the other byte order: PXE and SMBIOS disagree about it."""
    parts = uuid.split("-")
    if len(parts) != 5:
        return uuid
    turned = ["".join(reversed([part[at : at + 2] for at in range(0, len(part), 2)])) for part in parts[:3]]
    return "-".join((*turned, *parts[3:]))


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Invalid(f"{name} is not a text", variable=name)
    return str(value)


def _line(fields: Mapping[str, Any], name: str, most: int) -> str:
    if name not in fields:
        return ""
    return " ".join(_CONTROL.sub(" ", _text(fields, name)).split())[:most]


def _word(fields: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    if name not in fields:
        return ""
    text = _text(fields, name).strip()
    if text and not form.match(text):
        raise Invalid(f"{name} is malformed", variable=name)
    return text


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return [
                item
                for item in re.split(r"[\n,]+" if name != "ssh_host_keys" else r"\n+", text)
                if item.strip()
            ]
        value = read_json(text)
    if not isinstance(value, list) or len(value) > _MOST:
        raise Invalid(f"{name} is not a list of at most {_MOST}", variable=name)
    return value


def read_json(text: str | bytes) -> Any:
    """Read JSON that is not nested deeper than `DEPTH`. Raises Invalid."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid("not JSON") from error
    _check_depth(value, 0)
    return value


def _check_depth(value: Any, depth: int) -> None:
    if depth > DEPTH:
        raise Invalid(f"nested deeper than {DEPTH}")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth + 1)


def _inventory(fields: Mapping[str, Any], disks: tuple[Disk, ...]) -> Mapping[str, Any] | None:
    value = fields.get("inventory")
    if value is None or value == "":
        return None
    return read_inventory(
        read_json(value) if isinstance(value, str) else value, [asdict(disk) for disk in disks]
    )


def _mac(item: Any) -> str:
    try:
        return normal_mac(item) if isinstance(item, str) else ""
    except Invalid:
        return ""  # installers list every interface, loopback and tunnels too


def _address(item: Any) -> str:
    try:
        address = ipaddress.ip_interface(str(item).strip()).ip
    except ValueError:
        return ""
    return "" if address.is_loopback or address.is_link_local else str(address)


def _key(item: Any) -> str:
    if not isinstance(item, str) or not _KEY.match(item.strip()):
        raise Invalid("ssh_host_keys holds something that is no public key", variable="ssh_host_keys")
    return item.strip()


def _disk(item: Any) -> Disk:
    if not isinstance(item, dict):
        raise Invalid("disks holds something that is no disk", variable="disks")
    rotational = item.get("rotational")
    if isinstance(rotational, str) or (isinstance(rotational, int) and not isinstance(rotational, bool)):
        rotational = {"1": True, "true": True, "0": False, "false": False}.get(str(rotational))
    size = item.get("size", 0)
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20:
        size = int(size)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise Invalid("a disk's size is not a number of bytes", variable="disks")
    name = _word(item, "name", _DISK)
    if not name:
        raise Invalid("a disk has no name", variable="disks")
    return Disk(
        name=name,
        serial=_line(item, "serial", 128),
        wwn=_line(item, "wwn", 128),
        size=size,
        rotational=rotational if isinstance(rotational, bool) else None,
    )


def _percent(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        return max(0, min(100, int(float(value))))
    except (TypeError, ValueError, OverflowError):
        raise Invalid("percent is not a number", variable="percent") from None
