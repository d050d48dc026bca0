"""LIO's configuration as values: what targetcli saves, read as far as it matters to us.

The form is rtslib's, the same for what is saved and for what is dumped of the kernel:

    storage_objects[]  .plugin "block" or "fileio", .name, .dev (our path)
    targets[]          .fabric "iscsi", .wwn (the target's name), .tpgs[]
      tpgs[]           .tag, .enable, .attributes.authentication and .generate_node_acls
        portals[]      .ip_address, .port
        luns[]         .index, .storage_object "/backstores/PLUGIN/NAME"
        node_acls[]    .node_wwn (the initiator), .chap_userid, .chap_password, .chap_mutual_userid, …
          mapped_luns[] .index (what the initiator sees), .tpg_lun, .write_protect

Deliberately unknown: how it is asked for and changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from baremetal.storage.base import Chap, Lun, Target


@dataclass(frozen=True, slots=True, order=True)
class Store:
    """A storage object: what a LUN stands on."""

    plugin: str
    name: str

    @classmethod
    def at(cls, text: str) -> Store:
        """Read `/backstores/PLUGIN/NAME`."""
        plugin, _, name = text.removeprefix("/backstores/").partition("/")
        return cls(plugin, name)


@dataclass(frozen=True, slots=True, order=True)
class ServedLun:
    number: int
    path: str
    store: Store | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Acl:
    """What one initiator needs and sees. `luns`: pairs of LUN and whether it may be written."""

    initiator: str
    chap: Chap | None
    luns: frozenset[tuple[int, bool]]
    crossed: bool = False  # a number that it sees is not the LUN's own


@dataclass(frozen=True, slots=True)
class Served:
    """A target with all that matters of it; equal means nothing is to be done."""

    iqn: str
    luns: frozenset[ServedLun] = frozenset()
    acls: frozenset[Acl] = frozenset()
    portals: frozenset[tuple[str, int]] = frozenset()
    authentication: bool = False
    anyone: bool = False  # generate_node_acls: who has no ACL gets one
    enabled: bool = False
    tags: frozenset[int] = frozenset({1})

    @property
    def paths(self) -> set[str]:
        return {lun.path for lun in self.luns}

    def target(self) -> Target:
        acls = sorted(self.acls, key=lambda acl: acl.initiator)
        writable = {number for acl in acls for number, may in acl.luns if may}
        luns = sorted(self.luns, key=lambda lun: lun.number)
        return Target(
            self.iqn,
            tuple(acl.initiator for acl in acls),
            tuple(Lun(lun.number, lun.path, lun.number in writable) for lun in luns),
            next((acl.chap for acl in acls), None),
        )


@dataclass(frozen=True, slots=True)
class Config:
    stores: dict[Store, str] = field(default_factory=dict)
    targets: dict[str, Served] = field(default_factory=dict)
    users: dict[Store, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Any) -> Config:
        stores = {
            Store(each["plugin"], each["name"]): str(each.get("dev", ""))
            for each in config.get("storage_objects", [])
        }
        targets: dict[str, Served] = {}
        users: dict[Store, set[str]] = {}
        for each in config.get("targets", []):
            for tpg in each["tpgs"]:
                for lun in tpg.get("luns", []):
                    users.setdefault(Store.at(lun["storage_object"]), set()).add(each["wwn"])
            if each["fabric"] == "iscsi":
                targets[each["wwn"]] = _read_target(each, stores)
        return cls(stores, targets, users)

    def store_of(self, path: str) -> Store | None:
        return next((store for store, each in self.stores.items() if each == path), None)

    def is_used(self, store: Store, *, beside: str = "") -> bool:
        return bool(self.users.get(store, set()) - {beside})

    def unused(self, paths: set[str]) -> list[Store]:
        """Storage objects of these paths that no target shows, as a crash between two commands leaves them."""
        return sorted(each for each, path in self.stores.items() if path in paths and not self.is_used(each))


def _read_target(config: Any, stores: dict[Store, str]) -> Served:
    tpgs = config["tpgs"]
    tags = frozenset(int(tpg["tag"]) for tpg in tpgs)
    tpg: dict[str, Any] = next((tpg for tpg in tpgs if tpg["tag"] == 1), {})
    attributes = tpg.get("attributes", {})
    luns = frozenset(
        ServedLun(
            lun["index"], stores.get(Store.at(lun["storage_object"]), ""), Store.at(lun["storage_object"])
        )
        for lun in tpg.get("luns", [])
    )
    return Served(
        config["wwn"],
        luns,
        frozenset(_read_acl(acl) for acl in tpg.get("node_acls", [])),
        frozenset((each["ip_address"].strip("[]"), int(each["port"])) for each in tpg.get("portals", [])),
        attributes.get("authentication") == 1,
        attributes.get("generate_node_acls") == 1,
        bool(tpg.get("enable")),
        tags,
    )


def _read_acl(acl: Any) -> Acl:
    mapped = acl.get("mapped_luns", [])
    user, password = acl.get("chap_userid") or "", acl.get("chap_password") or ""
    back, back_password = acl.get("chap_mutual_userid") or "", acl.get("chap_mutual_password") or ""
    return Acl(
        acl["node_wwn"],
        Chap(user, password, back, back_password) if user or password or back or back_password else None,
        frozenset((int(each["tpg_lun"]), not each["write_protect"]) for each in mapped),
        any(each["index"] != each["tpg_lun"] for each in mapped),
    )
