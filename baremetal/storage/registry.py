"""From what is said of a storage host to the host itself: which keeper and which portal, on which shell."""

from __future__ import annotations

from collections.abc import Callable

from baremetal.storage.base import Keeper, Portal, Shell
from baremetal.storage.files import FileKeeper
from baremetal.storage.host import StorageHost
from baremetal.storage.lio import Lio
from baremetal.storage.lvm import LvmKeeper
from baremetal.storage.settings import Kind, StorageSettings
from baremetal.storage.shell import LocalShell
from baremetal.storage.sizes import read_size
from baremetal.storage.tgt import SOCKET, Tgt

OpenShell = Callable[[StorageSettings], Shell]
_LOCK = "/run/lock/baremetal-storage.lock"


def open_host(settings: StorageSettings, remote: OpenShell) -> StorageHost:
    """Return the storage host; nothing is asked of it yet. `remote` opens the shell of another machine."""
    assert settings.makes, "an array whose LUNs are made by hand is not opened"
    shell = remote(settings) if settings.address else LocalShell()
    keeper: Keeper
    if settings.folder:
        keeper, lock = FileKeeper(shell, settings.folder.rstrip("/")), f"{settings.folder.rstrip('/')}/.lock"
    else:
        room = read_size(settings.snapshot_size) if settings.snapshot_size else 0
        keeper, lock = LvmKeeper(shell, settings.volume_group, settings.thin_pool, room), _LOCK
    portal: Portal
    if settings.kind is Kind.TGT:
        portal = Tgt(shell, settings.socket or SOCKET, settings.lun)
    else:
        portal = Lio(shell, settings.portal, settings.lun)
    return StorageHost(settings.name, shell, keeper, portal, lock)
