"""Who may come in, and what must survive a restart: control tokens, what BMCs refused, settings.

Owns their rows. Tokens are known by their hash only; what a role may do is decided above.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from baremetal.errors import Conflict, Unknown
from baremetal.store.codec import dump, load
from baremetal.store.connection import Prepared
from baremetal.store.history import audit
from baremetal.store.part import Part
from baremetal.store.records import BmcMemoRecord, TokenRecord
from baremetal.store.tables import BMC_MEMOS, SETTINGS, TOKENS, maybe_moment, micros, moment

_T = TOKENS.c
_BY_HASH = select(TOKENS).where(_T.hash == bindparam("ref"))
_MEMO = Prepared(
    select(BMC_MEMOS.c.refused, BMC_MEMOS.c.at, BMC_MEMOS.c.reason).where(
        BMC_MEMOS.c.identity == bindparam("ref")
    )
)
_SETTING = Prepared(select(SETTINGS.c.value).where(SETTINGS.c.name == bindparam("ref")))
_CHANGE_SETTING = Prepared(update(SETTINGS).where(SETTINGS.c.name == bindparam("ref")), ("value",))
_ADD_SETTING = Prepared(insert(SETTINGS), ("name", "value"))


class Memo(Protocol):
    """What is kept of a BMC's refusals (`engine/conversations.py` makes them)."""

    @property
    def refused(self) -> Sequence[str]: ...
    @property
    def at(self) -> datetime | None: ...
    @property
    def reason(self) -> str: ...


class Access(Part):
    """Control tokens, BMC memos, settings."""

    def add_token(self, name: str, role: str, hash: str, at: datetime, by: str = "") -> TokenRecord:
        """Keep a token's hash. Raises Conflict where the name is taken."""
        try:
            with self._db.write() as connection:
                row = {"name": name, "role": role, "hash": hash, "created_at": micros(at)}
                connection.execute(insert(TOKENS), row)
                audit(connection, at, "", "", f"control access {name!r} made, {role}", by=by or name)
        except IntegrityError as error:
            raise Conflict(
                f"there is a token {name!r} already", fix="revoke it first, or take another name"
            ) from error
        return TokenRecord(name, role, hash, at)

    def tokens(self) -> list[TokenRecord]:
        with self._db.read() as connection:
            rows = connection.execute(select(TOKENS).order_by(_T.name)).all()
        return [TokenRecord(row.name, row.role, row.hash, moment(row.created_at)) for row in rows]

    def token_by_hash(self, hash: str) -> TokenRecord | None:
        with self._db.read() as connection:
            row = connection.execute(_BY_HASH, {"ref": hash}).first()
        return None if row is None else TokenRecord(row.name, row.role, row.hash, moment(row.created_at))

    def revoke(self, name: str, at: datetime | None = None, by: str = "") -> None:
        """Delete a token: it opens nothing from now on. Raises Unknown."""
        with self._db.write() as connection:
            if connection.execute(delete(TOKENS).where(_T.name == name)).rowcount != 1:
                raise Unknown(f"no token {name!r}")
            when = at or datetime.now(UTC)
            audit(connection, when, "", "", f"control access {name!r} revoked", by=by or "operator")

    def bmc_memo(self, identity: str) -> BmcMemoRecord | None:
        """Return what this BMC refused before, None for nothing."""
        with self._db.read() as connection:
            row = _MEMO.run(connection, {"ref": identity}).fetchone()
        if row is None:
            return None
        refused, at, reason = row
        return BmcMemoRecord(tuple(load(refused)), maybe_moment(at), reason)

    def save_bmc_memo(self, identity: str, memo: Memo) -> None:
        """Keep what this BMC refused; an empty memo is forgotten."""
        with self._db.write() as connection:
            if not memo.refused:
                connection.execute(delete(BMC_MEMOS).where(BMC_MEMOS.c.identity == identity))
                return
            row = {
                "refused": dump(list(memo.refused)),
                "at": None if memo.at is None else micros(memo.at),
                "reason": memo.reason,
            }
            adding = self._db.upsert(BMC_MEMOS).values(identity=identity, **row)
            connection.execute(adding.on_conflict_do_update(index_elements=["identity"], set_=row))

    def setting(self, name: str) -> str | None:
        with self._db.read() as connection:
            row = _SETTING.run(connection, {"ref": name}).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, name: str, value: str) -> None:
        with self._db.write() as connection:
            change = {"ref": name, "value": value}
            if _CHANGE_SETTING.run(connection, change).rowcount == 0:
                _ADD_SETTING.run(connection, {"name": name, "value": value})
