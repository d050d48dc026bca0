"""What the newest inspection of each server found. Written in the transaction of the decision that heard of it.

Owns the rows; what may stand in them is `service/servers/inventory.py`'s affair. Not a part of the server's own row,
which is read on every boot and every turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select

from baremetal.store.codec import dump, load
from baremetal.store.connection import Connection, Prepared
from baremetal.store.database import Database
from baremetal.store.part import Part
from baremetal.store.records import InventoryRecord
from baremetal.store.tables import INVENTORIES, micros, moment

_I = INVENTORIES.c
_ONE = Prepared(select(_I.run, _I.at, _I.found).where(_I.server_id == bindparam("ref")))


class Inventories(Part):
    """Reads of inventories."""

    def inventory(self, server_id: str) -> InventoryRecord | None:
        """Return what the newest inspection found, None before the first."""
        with self._db.read() as connection:
            row = _ONE.run(connection, {"ref": server_id}).fetchone()
        if row is None:
            return None
        run, at, found = row
        return InventoryRecord(run, moment(at), load(found))


def keep_inventory(
    database: Database,
    connection: Connection,
    server_id: str,
    run: int,
    at: datetime,
    found: Mapping[str, Any],
) -> None:
    """Put an inventory in the place of an older one."""
    row = {"run": run, "at": micros(at), "found": dump(dict(found))}
    adding = database.upsert(INVENTORIES).values(server_id=server_id, **row)
    connection.execute(adding.on_conflict_do_update(index_elements=["server_id"], set_=row))
