"""The migrations make what the tables say, on every kind of database, and once only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from baremetal.errors import Unavailable
from baremetal.store.database import Database
from baremetal.store.migrate import FOLDER, HEAD, upgrade, version
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from baremetal.store.tables import METADATA
from tests.unit.store.fleet import NOW, new

pytestmark = pytest.mark.slow

# A database in memory is made from the tables, and never opened twice.
STORES = ("file", "postgresql")


def test_head_is_the_newest_step() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_and_tables_agree(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        upgrade(connection.library)
    with database.read() as connection:
        assert version(connection.library) == HEAD
        context = MigrationContext.configure(connection.library, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_migrated_and_made_are_the_same_to_sqlite(tmp_path: Path, secrets: Secrets) -> None:
    """Partial indexes, key columns and AUTOINCREMENT, which the comparison above does not look at; and the stamp."""
    database = Database(f"sqlite:///{tmp_path}/migrated.db")
    with database.write() as connection:
        upgrade(connection.library)
    database.close()
    Store.open(f"sqlite:///{tmp_path}/made.db", secrets).close()
    made = create_engine(f"sqlite:///{tmp_path}/made.db")
    migrated = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with made.connect() as one, migrated.connect() as other:
        assert _schema(one) == _schema(other)
    made.dispose()
    migrated.dispose()


def _schema(connection: Connection) -> dict[str, object]:
    tables = [
        name
        for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        if name != "sqlite_sequence"
    ]
    schema: dict[str, object] = {
        "version": connection.scalar(text("SELECT version_num FROM alembic_version"))
    }
    for table in tables:
        for what in ("table_info", "foreign_key_list"):
            schema[f"{what} {table}"] = sorted(
                map(tuple, connection.exec_driver_sql(f"PRAGMA {what}({table})"))
            )
        schema[f"keys {table}"] = "AUTOINCREMENT" in str(
            connection.execute(
                text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table}
            ).scalar()
        )
    indexes = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''")
    )
    return schema | {f"index {name}": " ".join(sql.split()) for name, sql in indexes}


def test_what_runs_froze_survives_its_move_to_a_table_of_its_own(url: str, secrets: Secrets) -> None:
    database = Database(url)
    with database.write() as connection:
        upgrade(connection.library, "0003")
        for table, row in (
            (
                "servers",
                {
                    "id": "s",
                    "name": "r1",
                    "state": "active",
                    "generation": 1,
                    "fence": 1,
                    "life": "{}",
                    "facts": "{}",
                }
                | {"bmc_identity": "ipmi://b", "power_state": "on", "created_at": 1},
            ),
            ("runs", {"server_id": "s", "number": 1, "frozen": '{"template": "one"}'} | _BEGUN),
            ("runs", {"server_id": "s", "number": 2, "frozen": '{"template": "two"}'} | _BEGUN),
        ):
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
    database.close()
    store = Store.open(url, secrets)
    assert [store.frozen("s", number)["template"] for number in (1, 2)] == ["one", "two"]
    assert [run.profile for run in store.runs("s")] == ["tiny", "tiny"]
    store.close()


_BEGUN = {
    **dict.fromkeys(("outcome", "error", "boot_id", "disk"), ""),
    **dict.fromkeys(("disks", "ssh_host_keys", "addresses"), "[]"),
    "verb": "deploy",
    "profile": "tiny",
    "started_at": 1,
    "ended_at": 2,
    "accepted": "{}",
}


def test_opening_again_changes_nothing(url: str, secrets: Secrets) -> None:
    store = Store.open(url, secrets)
    (record,) = store.add_servers([new()], NOW)
    store.close()
    store = Store.open(url, secrets)
    assert store.server("r1") == record
    store.close()


def test_a_database_of_a_newer_version_is_refused(url: str, secrets: Secrets) -> None:
    store = Store.open(url, secrets)
    with store._db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(Unavailable, match="newer version"):
        Store.open(url, secrets)


def test_what_importing_and_opening_cost(tmp_path: Path) -> None:
    """The package itself imports nothing; neither a new database nor one that is up to date needs alembic."""
    url = f"sqlite:///{tmp_path}/baremetal.db"
    program = f"""
import sys
import baremetal.store
assert not {{"sqlalchemy", "sqlmodel", "cryptography"}} & set(sys.modules)
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
for _ in "new", "up to date":
    Store.open({url!r}, Secrets.ephemeral()).close()
assert not {{"alembic", "sqlalchemy.dialects.postgresql"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
