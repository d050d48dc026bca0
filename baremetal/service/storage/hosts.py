"""The storage hosts that are known: those of the configuration, and those that were added by command.

Owns finding one by name, and which is meant where none is named. Deliberately unknown: what volumes are for.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from baremetal.errors import BaremetalError, Conflict, Invalid, Unknown
from baremetal.storage.host import StorageHost
from baremetal.storage.registry import OpenShell, open_host
from baremetal.storage.settings import StorageSettings
from baremetal.store.store import Store


class Hosts:
    """All storage hosts by name. `remote` opens the shell of another machine, `scan` asks one for its host key."""

    def __init__(
        self,
        store: Store,
        configured: Mapping[str, StorageSettings],
        *,
        remote: OpenShell,
        scan: Callable[[str, int], str],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._configured = dict(configured)
        self._remote = remote
        self._scan = scan
        self._now = now
        self._open: dict[str, tuple[StorageSettings, StorageHost]] = {}
        self._added: dict[str, StorageSettings] | None = None
        self._lock = threading.Lock()

    def all(self) -> dict[str, StorageSettings]:
        """Return what is said of each storage host, by name."""
        with self._lock:
            added = self._added
            if added is None:  # read once: each boot of a diskless server asks
                facts = self._store.storage_hosts()
                self._added = added = {
                    name: StorageSettings.parse(name, some) for name, some in facts.items()
                }
        return dict(sorted((added | self._configured).items()))

    def settings(self, name: str = "") -> StorageSettings:
        """Return what is said of one; "" means the only one. Raises Unknown BM809, Invalid."""
        if name in self._configured:  # which goes before what was added, and needs no database
            return self._configured[name]
        known = self.all()
        if name in known:
            return known[name]
        if not name and len(known) == 1:
            return next(iter(known.values()))
        if not name:
            raise Invalid(
                "which storage host?" if known else "no storage host is known",
                code="BM809",
                variable="storage",
                fix=f"name one of {', '.join(known)}" if known else "baremetal storage add NAME --kind tgt …",
            )
        near = get_close_matches(name, known, n=1)
        raise Unknown(f"no storage host {name[:64]!r}", code="BM809", nearest=near[0] if near else None)

    def host(self, name: str) -> StorageHost:
        """Return a storage host to work with: always the same one, so that its lock is. Raises Unknown, Invalid."""
        said = self.settings(name)
        if not said.makes:
            raise Invalid(
                f"the volumes of {name} are made by hand: {said.kind}",
                code="BM809",
                fix=f"baremetal storage show {name} says how",
            )
        with self._lock:
            known = self._open.get(name)
            if known is None or known[0] != said:
                known = self._open[name] = (said, open_host(said, self._remote))
            return known[1]

    # -- use cases --

    def add(self, name: str, facts: Mapping[str, Any], by: str) -> dict[str, Any]:
        """Add a storage host once it has been looked at. Raises Invalid, Conflict, StorageError.

        Where no host key is given, the one that the machine shows now is pinned; it is for people to compare.
        """
        if facts.get("address") and not facts.get("host_key"):
            bare = StorageSettings.parse(name, {**facts, "host_key": "ssh-ed25519 AAAA"})
            facts = {**facts, "host_key": self._scan(bare.address, bare.ssh_port)}
        said = StorageSettings.parse(name, facts)
        if name in self._configured:
            raise Conflict(f"the configuration has a storage host {name!r}", fix="change it there")
        seen = self._look(open_host(said, self._remote)) if said.makes else {}
        with self._lock:
            self._store.add_storage_host(name, said.as_dict(), self._now(), by)
            self._added = None
        return self._brief(said) | seen

    def remove(self, name: str, by: str) -> None:
        """Forget a storage host; nothing is changed there. Raises Unknown, Conflict."""
        if name in self._configured:
            raise Conflict(f"the storage host {name!r} stands in the configuration", fix="take it out there")
        with self._lock:
            self._store.remove_storage_host(name, self._now(), by)
            self._added = None

    def list(self) -> list[dict[str, Any]]:
        return [self._brief(said) for said in self.all().values()]

    def show(self, name: str) -> dict[str, Any]:
        """Describe a storage host and look how it is; where it does not answer, `problem` says why."""
        said = self.settings(name)
        told = self._brief(said) | said.as_dict()
        if not said.makes:
            return told
        try:
            return told | self._look(self.host(said.name)) | {"problem": None}
        except BaremetalError as error:
            return told | {"problem": error.as_dict()}

    def _look(self, host: StorageHost) -> dict[str, Any]:
        software, room = host.portal.check(), host.keeper.check()
        return {
            "software": software,
            "clones": host.keeper.snapshots,
            "size": room.size,
            "free": room.free,
        }

    def _brief(self, said: StorageSettings) -> dict[str, Any]:
        return {
            "name": said.name,
            "kind": str(said.kind),
            "place": said.address or "this machine",
            "portal": said.portal,
            "base_iqn": said.base_iqn,
            "keeps": said.folder or said.volume_group,
            "fingerprint": _fingerprint(said.host_key) if said.host_key else None,
            "configured": said.name in self._configured,
        }


def _fingerprint(host_key: str) -> str:
    """Return a public key's fingerprint as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(host_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
