"""What is said of a storage host, by the configuration or by `baremetal storage add`: checked, with its defaults.

Deliberately unknown: where it was said, and how the host is spoken to.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from baremetal.errors import Invalid
from baremetal.storage.names import Naming, split_portal

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")
_GROUP = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,62}\Z")  # lvm(8), VALID NAMES
_FOLDER = re.compile(r"/[A-Za-z0-9._/-]{1,200}\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?\Z")
_HOST_KEY = re.compile(r"[a-z0-9@.-]{4,64} [A-Za-z0-9+/]{4,8192}={0,2}( [ -~]*)?\Z")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")


class Kind(StrEnum):
    """Who serves the targets. EXTERNAL: an array whose LUNs are made by hand."""

    TGT = "tgt"
    LIO = "lio"
    EXTERNAL = "external"


_TYPES: Mapping[str, type] = {"first_lun": int, "ssh_port": int, "chap": bool, "mutual_chap": bool}
_FIRST_LUN = {Kind.TGT: 1, Kind.LIO: 0, Kind.EXTERNAL: 0}


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """One storage host.

    `address`: where its commands are run by SSH, "" for this machine; `host_key` is its public key, one line.
    `portal`: where initiators log in, an IP address with a port. Volumes are kept in a `folder` or in a
    `volume_group`. `first_lun` None: as its kind has it. `target` and `initiator` are templates (`names.Naming`).
    `socket`: tgtd's control socket.
    """

    name: str
    kind: Kind
    portal: str
    base_iqn: str
    address: str = ""
    ssh_user: str = "root"
    ssh_port: int = 22
    host_key: str = ""
    folder: str = ""
    volume_group: str = ""
    thin_pool: str = ""
    snapshot_size: str = "10G"
    first_lun: int | None = None
    target: str = "{base}:{server}.{system}"
    initiator: str = "{base}:{server}"
    chap: bool = True
    mutual_chap: bool = False
    socket: str = ""

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> StorageSettings:
        """Read and check what was said. Raises Invalid naming what is wrong."""
        known = [field.name for field in fields(cls) if field.name != "name"]
        for key in given:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                raise Invalid(
                    f"storage host {name}: nothing is known as {key[:64]!r}",
                    variable=key[:64],
                    fix=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
                )
        said = {key: value for key, value in given.items() if value is not None}
        if isinstance(said.get("host_key"), str):
            said["host_key"] = said["host_key"].strip()
        kind = str(said.pop("kind", ""))
        if kind not in tuple(Kind):
            raise Invalid(
                f"storage host {name}: no kind {kind[:32]!r}", variable="kind", fix=f"use {' or '.join(Kind)}"
            )
        for key in ("portal", "base_iqn"):
            if not said.get(key):
                raise Invalid(f"storage host {name}: {key} is missing", variable=key)
        for key, value in said.items():
            wanted = _TYPES.get(key, str)
            if type(value) is not wanted:
                words = {str: "a text", int: "a number", bool: "true or false"}[wanted]
                raise Invalid(f"storage host {name}: {key} is not {words}", variable=key)
        settings = cls(name, Kind(kind), **said)
        settings._check()
        return settings

    @property
    def lun(self) -> int:
        """The number of the first LUN."""
        return _FIRST_LUN[self.kind] if self.first_lun is None else self.first_lun

    @property
    def naming(self) -> Naming:
        return Naming(self.base_iqn, self.target, self.initiator)

    @property
    def makes(self) -> bool:
        """Whether volumes are made here by us, not by somebody's hand."""
        return self.kind is not Kind.EXTERNAL

    def as_dict(self) -> dict[str, Any]:
        """For the store and the API: nothing in it is secret."""
        return {key: value for key, value in asdict(self).items() if key != "name"} | {"kind": str(self.kind)}

    def _check(self) -> None:
        self._match("name", self.name, _NAME, "1 to 48 of a-z, 0-9 and hyphens")
        split_portal(self.portal)
        _ = self.naming
        if self.first_lun is not None and not 0 <= self.first_lun <= 255:
            raise self._wrong("first_lun", self.first_lun, "a number from 0 to 255")
        if self.kind is Kind.TGT and self.lun == 0:
            raise self._wrong("first_lun", 0, "1 or more for tgt, whose LUN 0 is its controller")
        self._match("ssh_user", self.ssh_user, _USER, "a user's name")
        if self.address:
            self._match("address", self.address, _HOST, "a host name or address")
            if not self.host_key:
                raise self._wrong("host_key", "", "the public host key of an address, which is pinned")
            if not _HOST_KEY.match(self.host_key) or not _is_base64(self.host_key.split()[1]):
                raise self._wrong(
                    "host_key", self.host_key, "a public key in one line, as in ssh-ed25519 AAAA…"
                )
        if bool(self.folder) == bool(self.volume_group) and self.makes:
            raise Invalid(
                f"storage host {self.name}: where are its volumes kept?",
                variable="volume_group",
                fix="give one of volume_group and folder",
            )
        if self.folder:
            self._match("folder", self.folder, _FOLDER, "an absolute path of plain characters")
            if ".." in self.folder.split("/"):
                raise self._wrong("folder", self.folder, "a path without ..")
        for key, value in (("volume_group", self.volume_group), ("thin_pool", self.thin_pool)):
            if value:
                self._match(key, value, _GROUP, "a name as lvm(8) has it")
        if self.socket:
            self._match("socket", self.socket, re.compile(r"/[A-Za-z0-9._/-]+\.[0-9]+\Z"), "/PATH.NUMBER")

    def _match(self, key: str, value: str, form: re.Pattern[str], words: str) -> None:
        if not form.match(value):
            raise self._wrong(key, value, words)

    def _wrong(self, key: str, value: object, words: str) -> Invalid:
        return Invalid(f"storage host {self.name}: {key} {str(value)[:80]!r} is not {words}", variable=key)


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except binascii.Error:
        return False
