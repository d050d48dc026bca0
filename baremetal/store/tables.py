"""The tables, as SQLModel classes. The migrations must agree with them; a test compares the two.

Owns names, keys and indexes. Moments are whole microseconds since 1970 in UTC: exact, ordered, and the same on every
database. Columns that hold JSON are text, read and written by `codec.py`; nothing is ever asked *inside* them. A
forgotten server takes its rows along; the history has no foreign key, because it stays.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, text
from sqlmodel import Field, SQLModel

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Return the stored form of an aware time."""
    return (at - EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """Return the aware time that `micros` stored."""
    return EPOCH + timedelta(microseconds=stored)


def maybe_moment(stored: int | None) -> datetime | None:
    return None if stored is None else moment(stored)


class _Row(SQLModel):
    """Our own metadata, apart from whatever else uses SQLModel in this process."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


METADATA = _Row.metadata


def _of_server(**more: Any) -> Column[Any]:
    return Column("server_id", ForeignKey("servers.id", ondelete="CASCADE"), nullable=False, **more)


class ServerRow(_Row, table=True):
    """`life` is the whole life; state, generation, fence and due_at stand beside it because statements ask for them.

    `reserved_fence` is the fence that the holder of the reservation was given: raising the fence voids it.
    """

    __tablename__ = "servers"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    state: str = Field(index=True)
    generation: int = Field(sa_type=BigInteger)
    fence: int = Field(sa_type=BigInteger)
    life: str
    due_at: int | None = Field(sa_type=BigInteger, index=True)
    reserved_until: int | None = Field(sa_type=BigInteger)
    reserved_fence: int | None = Field(sa_type=BigInteger)
    bmc_identity: str = Field(unique=True)
    uuid: str | None = Field(unique=True)
    serial: str | None = Field(index=True)
    facts: str
    power_state: str
    power_seen_at: int | None = Field(sa_type=BigInteger)
    created_at: int = Field(sa_type=BigInteger)


class MacRow(_Row, table=True):
    __tablename__ = "macs"

    mac: str = Field(primary_key=True)
    server_id: str = Field(sa_column=_of_server(index=True))


class CredentialsRow(_Row, table=True):
    """`sealed` holds user and password together, encrypted."""

    __tablename__ = "credentials"

    server_id: str = Field(sa_column=_of_server(primary_key=True))
    sealed: str


class RunRow(_Row, table=True):
    __tablename__ = "runs"

    server_id: str = Field(sa_column=_of_server(primary_key=True))
    number: int = Field(primary_key=True)
    verb: str
    profile: str
    started_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(sa_type=BigInteger)
    outcome: str
    error: str
    boot_id: str
    disk: str
    disks: str
    ssh_host_keys: str
    addresses: str
    accepted: str


class FrozenRow(_Row, table=True):
    """What a run froze at its start: written once, read by few, and large."""

    __tablename__ = "frozen"

    server_id: str = Field(sa_column=_of_server(primary_key=True))
    run: int = Field(primary_key=True)
    text: str


class HistoryRow(_Row, table=True):
    # Ids only grow, also after the newest rows were deleted: readers of the stream resume by them.
    __tablename__ = "history"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(
        default=None,
        sa_column=Column(
            "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
    )
    at: int = Field(sa_type=BigInteger)
    server_id: str
    server: str
    run: int | None
    kind: str
    note: str
    from_state: str | None
    to_state: str | None
    outcome: str | None
    fence: int | None = Field(sa_type=BigInteger)
    event: str | None
    data: str


class LogRow(_Row, table=True):
    __tablename__ = "logs"

    server_id: str = Field(sa_column=_of_server(primary_key=True))
    run: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    size: int
    content: bytes = Field(sa_type=LargeBinary)


class InventoryRow(_Row, table=True):
    """`found` is what the newest inspection reported, as JSON."""

    __tablename__ = "inventories"

    server_id: str = Field(sa_column=_of_server(primary_key=True))
    run: int
    at: int = Field(sa_type=BigInteger)
    found: str


class WaitingRow(_Row, table=True):
    """A deploy that was asked for and has not begun. Ids only grow: the lowest has waited longest."""

    __tablename__ = "waiting"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(
        default=None,
        sa_column=Column(
            "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
    )
    server_id: str = Field(sa_column=_of_server(unique=True))
    at: int = Field(sa_type=BigInteger)
    profile: str
    asked: str
    frozen: str


class StorageHostRow(_Row, table=True):
    """A storage host that was added by command; those of the configuration are not here. `facts` as JSON."""

    __tablename__ = "storage_hosts"

    name: str = Field(primary_key=True)
    facts: str
    created_at: int = Field(sa_type=BigInteger)


class VolumeRow(_Row, table=True):
    """A volume that stands on a storage host, or may: it is here before it is made, and until it is known to be gone.

    No foreign keys: what stands on a storage host does not vanish because somebody forgot whose it is.
    """

    __tablename__ = "volumes"

    id: str = Field(primary_key=True)
    storage: str
    name: str
    role: str
    server_id: str = Field(index=True)
    run: int
    size: int = Field(sa_type=BigInteger)
    origin: str
    ready: bool
    created_at: int = Field(sa_type=BigInteger)


class DoorRow(_Row, table=True):
    """An iSCSI target of a server: its names, and its CHAP secret, `sealed`. The newest (`at`) is the one in use.

    An older one stays until it is known to be withdrawn.
    """

    __tablename__ = "doors"

    storage: str = Field(primary_key=True)
    target: str = Field(primary_key=True)
    server_id: str = Field(index=True)
    initiator: str
    volume_id: str
    sealed: str
    at: int = Field(sa_type=BigInteger)


class UnknownRow(_Row, table=True):
    __tablename__ = "unknowns"

    mac: str = Field(primary_key=True)
    uuid: str
    serial: str
    arch: str
    what: str
    first_seen_at: int = Field(sa_type=BigInteger)
    last_seen_at: int = Field(sa_type=BigInteger, index=True)
    times: int


class TokenRow(_Row, table=True):
    __tablename__ = "tokens"

    name: str = Field(primary_key=True)
    role: str
    hash: str = Field(unique=True)
    created_at: int = Field(sa_type=BigInteger)


class BmcMemoRow(_Row, table=True):
    __tablename__ = "bmc_memos"

    identity: str = Field(primary_key=True)
    refused: str
    at: int | None = Field(sa_type=BigInteger)
    reason: str


class SettingRow(_Row, table=True):
    __tablename__ = "settings"

    name: str = Field(primary_key=True)
    value: str


def _table(row: type[_Row]) -> Table:
    return METADATA.tables[str(row.__tablename__)]


SERVERS = _table(ServerRow)
MACS = _table(MacRow)
CREDENTIALS = _table(CredentialsRow)
RUNS = _table(RunRow)
FROZEN = _table(FrozenRow)
HISTORY = _table(HistoryRow)
LOGS = _table(LogRow)
INVENTORIES = _table(InventoryRow)
WAITING = _table(WaitingRow)
STORAGE_HOSTS = _table(StorageHostRow)
VOLUMES = _table(VolumeRow)
DOORS = _table(DoorRow)
UNKNOWNS = _table(UnknownRow)
TOKENS = _table(TokenRow)
BMC_MEMOS = _table(BmcMemoRow)
SETTINGS = _table(SettingRow)

# What PostgreSQL has of these is said by the migrations alone: to name its dialect here would load it everywhere.

# At most one open run per server (promises I10), whoever asks.
_OPEN = text("ended_at IS NULL")
Index("uq_runs_open", RUNS.c.server_id, unique=True, sqlite_where=_OPEN)
Index("uq_volumes_storage_name", VOLUMES.c.storage, VOLUMES.c.name, unique=True)
Index("ix_history_server_id_id", HISTORY.c.server_id, HISTORY.c.id)
# What retention looks for, and nothing else.
_OBSERVED = text("kind = 'observation'")
Index("ix_history_observed", HISTORY.c.at, sqlite_where=_OBSERVED)
