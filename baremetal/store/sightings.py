"""Machines that asked to be booted and are not enrolled, so that they can be enrolled from what they said."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, select

from baremetal.store.part import Part
from baremetal.store.records import UnknownMachine
from baremetal.store.tables import UNKNOWNS, micros, moment

MOST = 1000

_U = UNKNOWNS.c


class Sightings(Part):
    """Bounded: anybody on the segment can invent MACs, so the longest unseen make room."""

    def saw_unknown(self, mac: str, uuid: str, serial: str, arch: str, what: str, at: datetime) -> None:
        """Note that a machine nobody enrolled asked for `what`. What it does not say now ("") stays as it was said."""
        now = micros(at)
        told = {"uuid": uuid, "serial": serial, "arch": arch}
        with self._db.write() as connection:
            adding = self._db.upsert(UNKNOWNS).values(
                mac=mac, first_seen_at=now, last_seen_at=now, times=1, what=what, **told
            )
            news: dict[str, object] = {name: text for name, text in told.items() if text}
            news |= {"what": what, "last_seen_at": now, "times": _U.times + 1}
            connection.execute(adding.on_conflict_do_update(index_elements=["mac"], set_=news))
            extra = (connection.execute(select(func.count()).select_from(UNKNOWNS)).scalar() or 0) - MOST
            if extra > 0:
                oldest = select(_U.mac).where(_U.mac != mac).order_by(_U.last_seen_at).limit(extra)
                connection.execute(delete(UNKNOWNS).where(_U.mac.in_(oldest)))

    def unknowns(self) -> list[UnknownMachine]:
        """Return the machines that are not enrolled, the latest seen first."""
        with self._db.read() as connection:
            rows = connection.execute(select(UNKNOWNS).order_by(_U.last_seen_at.desc(), _U.mac)).all()
        return [
            UnknownMachine(
                row.mac,
                row.uuid,
                row.serial,
                row.arch,
                row.what,
                moment(row.first_seen_at),
                moment(row.last_seen_at),
                row.times,
            )
            for row in rows
        ]
