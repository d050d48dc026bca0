"""Brings a database to the schema that this version knows, once, at the start.

Owns when alembic runs and what is said when the database is newer than the program. The steps are in `migrations/`;
alembic itself is imported only when there is one to make, because that takes longer than everything else here.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from baremetal.errors import Unavailable
from baremetal.store.database import Database

HEAD = "0003"
FOLDER = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Upgrade the database to `HEAD` in one transaction. Idempotent; of two processes, the second finds it done."""
    if database.in_memory:
        return
    with database.read() as connection:
        if version(connection.library) == HEAD:
            return
    with database.write() as connection:
        if version(connection.library) != HEAD:
            _upgrade(connection.library)


def version(connection: Connection) -> str | None:
    """Return the migration that the database stands at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Unavailable(
            "the database was made by a newer version of this program",
            seen=f"schema {version(connection)}, known here: {HEAD}",
            fix="run that version, or restore the backup that was made before the upgrade",
        ) from error
