"""The store: everything that outlives the process, in one database.

Owns opening and closing; its methods come from one part per noun. What leaves it are the frozen values of `records.py`.
A fault of the database is `Unavailable`; then nothing was written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from baremetal.store.access import Access
from baremetal.store.database import Database
from baremetal.store.history import History
from baremetal.store.inventories import Inventories
from baremetal.store.migrate import migrate
from baremetal.store.runs import Runs
from baremetal.store.secrets import Secrets
from baremetal.store.servers import Servers
from baremetal.store.sightings import Sightings
from baremetal.store.transitions import Transitions
from baremetal.store.volumes import Volumes
from baremetal.store.waiting import Waiting


class Store(Servers, Transitions, Runs, Waiting, Inventories, Volumes, History, Sightings, Access):
    """One database, for all threads of the process."""

    @classmethod
    def open(cls, url: str, secrets: Secrets) -> Store:
        """Open a database, made or migrated where that is due.

        `sqlite:///FILE`, `postgresql://…` (extra `postgresql`), or `sqlite://` for one in memory. Raises Unavailable,
        Invalid.
        """
        database = Database(url)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database, secrets)

    def together(self) -> AbstractContextManager[None]:
        """Commit all that this thread writes inside the block at once, at its end: one flush to the disk for all.

        Each write is whole or undone by itself; a fault of the database undoes all of them and raises Unavailable, at
        the latest at the end. Nothing may be answered before.
        """
        return self._db.together()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this now, or inside of `together` when all is committed; never where it is undone."""
        self._db.after_commit(call)

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._db.close()

    def rotate_key(self) -> int:
        """Make a new sealing key, seal every account with it, and drop the old one; returns how many.

        Whatever kills this half-way, the key file still opens everything that is stored.
        """
        self._secrets.add_key()
        resealed = self.reseal() + self.reseal_doors()
        self._secrets.drop_old_keys()
        return resealed
