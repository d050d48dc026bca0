"""Brings a database to the schema that this version knows, once, at the start.

Owns when alembic runs and what is said when the database is newer than the program. The steps are in `migrations/`;
alembic itself is imported only when there is one to make, because that takes longer than everything else here and
leaves seven megabytes in a service that may run for months. An empty SQLite database is therefore made from the tables
at once and stamped; a test holds the two ways to the same schema.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from baremetal.errors import Unavailable
from baremetal.store.connection import Connection as Opened
from baremetal.store.database import Database, create_schema

HEAD = "0005"
# As alembic makes it.
_STAMPS = """CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)"""
FOLDER = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Upgrade the database to `HEAD` in one transaction. Idempotent; of two processes, the second finds it done."""
    if database.in_memory:
        return
    with database.read() as connection:
        if version(connection.library) == HEAD:
            return
    with database.write() as connection:
        if database.dialect == "sqlite" and _is_empty(connection):
            create_schema(connection)
            connection.driver.execute(_STAMPS)
            connection.driver.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
        elif version(connection.library) != HEAD:
            upgrade(connection.library)


def version(connection: Connection) -> str | None:
    """Return the migration that the database stands at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _is_empty(connection: Opened) -> bool:
    return connection.driver.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def upgrade(connection: Connection, to: str = HEAD) -> None:
    """Make the steps that are missing, in the transaction that is open. Raises Unavailable for a newer database."""
    found = version(connection)  # asked first: alembic would commit a transaction that it had to begin itself
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise Unavailable(
            "the database was made by a newer version of this program",
            seen=f"schema {found}, known here: {HEAD}",
            fix="run that version, or restore the backup that was made before the upgrade",
        ) from error
