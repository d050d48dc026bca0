"""Volumes as operators see them: golden images that come and go, and the list of everything that is kept.

Owns what may be removed by hand: golden images nobody is a clone of, and what was left by servers that are gone.
Deliberately unknown: what a run makes of a golden image (`volumes.py`).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from baremetal.errors import BaremetalError, Conflict, Invalid, Refused, Unknown
from baremetal.lifecycle.model import BootTarget, PowerState
from baremetal.service.storage.doors import system_volume
from baremetal.service.storage.hosts import Hosts
from baremetal.service.storage.volumes import golden_name, tag_of, version_of
from baremetal.storage.base import Kept
from baremetal.storage.host import StorageHost
from baremetal.storage.names import check_volume_name
from baremetal.store.records import ServerRecord, VolumeRecord
from baremetal.store.store import Store

_CHUNK = 1 << 20
_CONVERT_S = 3600.0
_QCOW2 = b"QFI\xfb"


class Goldens:
    """For threads. `private`: folders whose files are no images, but for those in `media`.

    `work`: where images are converted. `power` asks a server's BMC.
    """

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        *,
        private: Sequence[Path],
        power: Callable[[str], dict[str, Any]],
        media: Path,
        work: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._private = tuple(folder.resolve() for folder in private)
        self._media = media.resolve()
        self._work = work
        self._power = power
        self._lock = threading.Lock()
        self._made_now: set[tuple[str, str]] = set()
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

    def import_image(
        self, name: str, path: str, storage: str, by: str, *, replace: bool = False
    ) -> dict[str, Any]:
        """Make a golden image of a raw or qcow2 file on this machine. Raises Invalid, Conflict, StorageError.

        `replace`: as the next version of the image of this name, which is what clones are made of from then on.
        """
        host = self._hosts.host(self._hosts.settings(storage).name)
        with self._raw(self._image(path)) as image:
            size = -(-image.stat().st_size // 512) * 512
            with self._named(host.name, name, replace=replace) as full:
                record = self._want(host, full, size, by, f"imported from {Path(path).name}")
                # Not under the host's lock: it is made under another name, and others' changes need not wait.
                host.keeper.fill(record.name, size, tag_of(record), _chunks(image))
                return self._stands(record, size)

    def promote(self, server_name: str, name: str, by: str, *, replace: bool = False) -> dict[str, Any]:
        """Make a golden image of what a server's volume holds now. The server must be off. Raises Refused.

        `replace` as in `import_image`: an image is edited by changing a clone of it and promoting that (S4-10).
        """
        server = self._store.server(server_name)
        self._refuse_running(server)
        volume = self._booted_by(server)
        host = self._hosts.host(volume.storage)
        with self._named(host.name, name, replace=replace) as full:
            record = self._want(host, full, volume.size, by, f"promoted from {server.name}", volume.id)
            host.keeper.clone(record.name, volume.name, volume.size, tag_of(record))
            # switched on while it was copied, it may have been written to: then this is no image of anything
            self._refuse_running(self._store.server(server.id))
            return self._stands(record, volume.size)

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
        self._store.note_volume(record, f"intends to delete the volume {record.name}", self._now(), by)
        doors = [door for door in self._store.doors(record.server_id) if record.server_id]
        behind = [door for door in doors if door.storage == record.storage]
        if not self._is_by_hand(record.storage):
            host = self._hosts.host(record.storage)
            for door in behind:  # whoever is gone needs no target
                known = [one.name for one in self._store.volumes(server_id=door.server_id)]
                host.withdraw(door.target, known)
            host.drop([(record.name, tag_of(record))], lambda: None)
        for door in behind:
            self._store.drop_door(door)
        self._store.volume_gone(record.id)

    # -- inside --

    def _booted_by(self, server: ServerRecord) -> VolumeRecord:
        found = system_volume(self._store, server.id, server.life.deployed)
        if found is None or server.life.target is not BootTarget.ISCSI:
            raise Refused("this server boots no volume", server=server.name)
        return found

    def _is_by_hand(self, storage: str) -> bool:
        said = self._hosts.all().get(storage)
        return said is not None and not said.makes

    def _refuse_running(self, server: ServerRecord) -> None:
        power = self._power(server.name)["power_state"] if server.life.run is None else "in use by a run"
        if power != PowerState.OFF:
            raise Refused(
                "a volume that is written to makes no golden image: the server is not off",
                server=server.name,
                seen=f"power {power}",
                fix=f"shut it down first: baremetal power soft-off {server.name}",
            )

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

    @contextmanager
    def _named(self, storage: str, name: str, *, replace: bool) -> Iterator[str]:
        """Give the name of an image that is to be made, which nobody else makes meanwhile. Raises Conflict."""
        with self._making(storage, name):
            full = self._next(storage, name) if replace else name
            with nullcontext() if full == name else self._making(storage, full):
                yield full

    def _next(self, storage: str, name: str) -> str:
        """Name the next version of a golden image; the first has the bare name."""
        known = [one for one in self._store.volumes() if one.role == "golden" and one.storage == storage]
        versions = [version for one in known if (version := version_of(one.name, name)) and one.ready]
        return f"{name}-v{max(versions) + 1}" if versions else name

    @contextmanager
    def _making(self, storage: str, name: str) -> Iterator[None]:
        """Keep others from making a golden image of the same name meanwhile. Raises Conflict."""
        key = (storage, name)
        with self._lock:
            if key in self._made_now:
                raise Conflict(f"the golden image {name!r} on {storage} is being made just now", code="BM805")
            self._made_now.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._made_now.discard(key)

    def _want(
        self, host: StorageHost, name: str, size: int, by: str, how: str, origin: str = ""
    ) -> VolumeRecord:
        """Write down that a golden image is to be made; what an earlier try has left is removed first."""
        full = check_volume_name(golden_name(name))
        known = [one for one in self._store.volumes() if (one.storage, one.name) == (host.name, full)]
        if known and known[0].ready:
            raise Conflict(
                f"there is a golden image {name!r} on {host.name} already",
                code="BM805",
                fix="take another name, such as one with a date",
            )
        if known:
            host.drop([(full, tag_of(known[0]))], lambda: None)
            self._store.volume_gone(known[0].id)
        wanted = VolumeRecord(uuid.uuid4().hex, host.name, full, "golden", size, self._now(), origin=origin)
        self._store.note_volume(wanted, f"intends the golden image {full}, {how}", self._now(), by)
        return self._store.want_volume(wanted)

    def _stands(self, record: VolumeRecord, size: int) -> dict[str, Any]:
        self._store.volume_stands(record.id, size)
        return self._brief(replace(record, size=size, ready=True), {}, {}, None, None)

    def _image(self, path: str) -> Path:
        image = Path(path)
        try:
            real = image.resolve(strict=True)
            # asked before it is opened: who opens a pipe waits for its other end
            if not (image.is_absolute() and real.is_file()):
                raise Invalid(f"{path} is no file by its whole path", variable="path")
            with real.open("rb"):
                pass
        except OSError as error:
            raise Invalid(f"{path}: {error.strerror}", variable="path") from error
        own = any(real.is_relative_to(folder) for folder in self._private)
        if own and not real.is_relative_to(self._media):
            raise Invalid(f"{path} is a file of this service, not an image", variable="path")
        return real

    @contextmanager
    def _raw(self, image: Path) -> Iterator[Path]:
        """Give the image as a raw one: a qcow2 image is converted, in a folder of our own."""
        with image.open("rb") as file:
            is_qcow2 = file.read(4) == _QCOW2
        if not is_qcow2:
            yield image
            return
        _refuse_other_files(image)
        with tempfile.TemporaryDirectory(prefix="image-", dir=self._work) as folder:
            raw = Path(folder) / "image.raw"
            _qemu_img(image, "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw))
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


def _refuse_other_files(image: Path) -> None:
    """Refuse a qcow2 image that leads to another file: that one's content would come with it. Raises Invalid."""
    told = json.loads(_qemu_img(image, "info", "-f", "qcow2", "--output=json", str(image)))
    data = told.get("format-specific", {}).get("data", {})
    others = [told.get(key) for key in ("backing-filename", "full-backing-filename")] + [
        data.get("data-file")
    ]
    if told.get("format") != "qcow2" or any(others):
        raise Invalid(
            f"{image.name} is no whole image by itself",
            variable="path",
            seen="it leads to another file",
            fix="make one that stands alone: qemu-img convert -O raw",
        )


def _qemu_img(image: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["qemu-img", *words], capture_output=True, text=True, timeout=_CONVERT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Invalid(
            f"{image.name} is a qcow2 image, and qemu-img cannot read it",
            seen=str(error),
            fix="apt-get install qemu-utils, or convert it to a raw image",
        ) from error
    if done.returncode != 0:
        raise Invalid(f"{image.name} cannot be read", seen=done.stderr.strip()[-300:])
    return done.stdout


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
