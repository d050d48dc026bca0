"""Volumes as operators see them: golden images that come and go, and the list of everything that is kept.

Owns what may be removed by hand: golden images nobody is a clone of, and what was left by servers that are gone.
Deliberately unknown: what a run makes of a golden image (`volumes.py`).
"""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from baremetal.errors import BaremetalError, Conflict, Invalid, Refused, Unknown
from baremetal.lifecycle.model import BootTarget, PowerState
from baremetal.service.storage.hosts import Hosts
from baremetal.service.storage.volumes import Volumes, golden_name, tag_of
from baremetal.storage.base import Kept
from baremetal.storage.names import check_volume_name
from baremetal.store.records import ServerRecord, VolumeRecord
from baremetal.store.store import Store

_CHUNK = 1 << 20
_CONVERT_S = 3600.0
_QCOW2 = b"QFI\xfb"


class Goldens:
    """For threads. `private`: folders whose files are no images, but for those in `media`."""

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        volumes: Volumes,
        *,
        private: Sequence[Path],
        media: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._volumes = volumes
        self._private = tuple(folder.resolve() for folder in private)
        self._media = media.resolve()
        self._now = now

    def list(self) -> list[dict[str, Any]]:
        """Return every volume of ours, with what its storage host says of it; `problem` where that does not answer."""
        records = self._store.volumes()
        servers = {record.id: record.name for record in self._store.servers()}
        seen: dict[str, dict[str, Kept]] = {}
        problems: dict[str, str] = {}
        for storage in {record.storage for record in records}:
            if self._is_by_hand(storage):
                continue
            try:
                kept = self._hosts.host(storage).keeper.volumes()
                seen[storage] = {one.name: one for one in kept}
            except BaremetalError as error:
                problems[storage] = str(error)
        names = {record.id: record.name for record in records}
        return [
            self._brief(record, servers, names, seen.get(record.storage), problems.get(record.storage))
            for record in records
        ]

    def import_image(self, name: str, path: str, storage: str, by: str) -> dict[str, Any]:
        """Make a golden image of a raw or qcow2 file on this machine. Raises Invalid, Conflict, StorageError."""
        host = self._hosts.host(self._hosts.settings(storage).name)
        with self._raw(self._image(path)) as image:
            size = -(-image.stat().st_size // 512) * 512
            with host.locked():
                record = self._want(host.name, name, size)
                host.keeper.fill(record.name, size, tag_of(record), _chunks(image))
        return self._stands(record, size, by, f"imported from {Path(path).name}")

    def promote(self, server_name: str, name: str, by: str) -> dict[str, Any]:
        """Make a golden image of what a server's volume holds now. The server must be off. Raises Refused."""
        server = self._store.server(server_name)
        if server.life.run is not None or server.power_state is not PowerState.OFF:
            raise Refused(
                "a volume that is written to makes no golden image: the server is not off",
                server=server.name,
                seen=f"power {server.power_state}",
                fix=f"shut it down first: baremetal power soft-off {server.name}",
            )
        volume = self.volume_of(server)
        host = self._hosts.host(volume.storage)
        with host.locked():
            record = self._want(volume.storage, name, volume.size, origin=volume.id)
            host.keeper.clone(record.name, volume.name, volume.size, tag_of(record))
        return self._stands(record, volume.size, by, f"promoted from {server.name}")

    def delete(self, name: str, storage: str, by: str) -> None:
        """Remove a golden image, or a volume whose server is gone. Raises Unknown, Refused, StorageError."""
        record = self._find(name, storage)
        if record.role == "golden":
            self._refuse_in_use(record)
        elif self._store.find_server(record.server_id) is not None:
            raise Refused(
                f"{record.name} is the volume of a server that is under care",
                code="BM807",
                fix="release the server",
            )
        if self._is_by_hand(record.storage):
            self._store.drop_door(record.server_id)
            self._store.volume_gone(record.id)
            return
        host = self._hosts.host(record.storage)
        door = self._store.door(record.server_id) if record.server_id else None
        if door is not None and door.storage == record.storage:
            host.release(door.target, [(record.name, tag_of(record))], lambda: None)
            self._store.drop_door(record.server_id)
        else:
            host.drop([(record.name, tag_of(record))], lambda: None)
        self._store.volume_gone(record.id)
        self._store.note_volume(record, f"volume {record.name} deleted", self._now(), by)

    def volume_of(self, server: ServerRecord) -> VolumeRecord:
        """Return the volume that a server boots. Raises Refused where it boots none."""
        known = self._store.volumes(server_id=server.id)
        found = next((one for one in known if one.run == server.life.deployed and one.role == "system"), None)
        if found is None or server.life.target is not BootTarget.ISCSI:
            raise Refused("this server boots no volume", server=server.name)
        return found

    # -- inside --

    def _is_by_hand(self, storage: str) -> bool:
        said = self._hosts.all().get(storage)
        return said is not None and not said.makes

    def _find(self, name: str, storage: str) -> VolumeRecord:
        found = [
            one
            for one in self._store.volumes()
            if one.name in (name, golden_name(name)) and (not storage or one.storage == storage)
        ]
        if not found:
            raise Unknown(f"no volume {name[:64]!r}", code="BM809", fix="baremetal volume list names them")
        if len(found) > 1:
            places = ", ".join(one.storage for one in found)
            raise Invalid(
                f"{name} is on several storage hosts", variable="storage", fix=f"name one of {places}"
            )
        return found[0]

    def _refuse_in_use(self, golden: VolumeRecord) -> None:
        clones = [one for one in self._store.volumes() if one.origin == golden.id]
        if clones:
            raise Refused(
                f"{golden.name} is in use: {len(clones)} volume(s) are clones of it",
                code="BM807",
                seen=", ".join(one.name for one in clones[:5]),
                fix="release those servers first, or leave it",
            )

    def _want(self, storage: str, name: str, size: int, origin: str = "") -> VolumeRecord:
        full = check_volume_name(golden_name(name))
        known = [one for one in self._store.volumes() if (one.storage, one.name) == (storage, full)]
        if known and known[0].ready:
            raise Conflict(
                f"there is a golden image {name!r} on {storage} already",
                code="BM805",
                fix="take another name, such as one with a date",
            )
        return self._store.want_volume(
            VolumeRecord(uuid.uuid4().hex, storage, full, "golden", size, self._now(), origin=origin)
        )

    def _stands(self, record: VolumeRecord, size: int, by: str, how: str) -> dict[str, Any]:
        self._store.volume_stands(record.id, size)
        self._store.note_volume(record, f"golden image {record.name} {how}", self._now(), by)
        return self._brief(replace(record, size=size, ready=True), {}, {}, None, None)

    def _image(self, path: str) -> Path:
        image = Path(path)
        try:
            real = image.resolve(strict=True)
            good = image.is_absolute() and real.is_file()
            with real.open("rb"):
                pass
        except OSError as error:
            raise Invalid(f"{path}: {error.strerror}", variable="path") from error
        if not good:
            raise Invalid(f"{path} is no file by its whole path", variable="path")
        own = any(real.is_relative_to(folder) for folder in self._private)
        if own and not real.is_relative_to(self._media):
            raise Invalid(f"{path} is a file of this service, not an image", variable="path")
        return real

    @contextmanager
    def _raw(self, image: Path) -> Iterator[Path]:
        """Give the image as a raw one: a qcow2 image is converted beside it, or in the folder for temporary files."""
        with image.open("rb") as file:
            is_qcow2 = file.read(4) == _QCOW2
        if not is_qcow2:
            yield image
            return
        with tempfile.TemporaryDirectory(prefix="baremetal-image-") as folder:
            raw = Path(folder) / "image.raw"
            command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_CONVERT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Invalid(
                    f"{image.name} is a qcow2 image, and qemu-img cannot convert it",
                    seen=str(error),
                    fix="apt-get install qemu-utils, or convert it to a raw image",
                ) from error
            if done.returncode != 0:
                raise Invalid(f"{image.name} cannot be converted", seen=done.stderr.strip()[-300:])
            yield raw

    def _brief(
        self,
        record: VolumeRecord,
        servers: dict[str, str],
        names: dict[str, str],
        kept: dict[str, Kept] | None,
        problem: str | None,
    ) -> dict[str, Any]:
        seen = kept.get(record.name) if kept is not None else None
        if kept is not None and (seen is None or seen.tag != tag_of(record)):
            problem = "not there" if seen is None else "another volume has its name"
        return {
            "name": record.name,
            "storage": record.storage,
            "role": record.role,
            "server": servers.get(record.server_id) or record.server_id or None,
            "run": record.run or None,
            "size": record.size,
            "used": seen.used if seen is not None else None,
            "origin": names.get(record.origin) or None,
            "ready": record.ready,
            "created_at": record.created_at,
            "problem": problem,
        }


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
