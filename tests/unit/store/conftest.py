"""One store per test: in memory, in a file, and (with `-m long`) in a PostgreSQL of our own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from baremetal.store.secrets import Secrets
from baremetal.store.store import Store


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty database is, of the kind that this test is run on."""
    match request.param:
        case "memory":
            return "sqlite://"
        case "postgresql":
            server = str(request.getfixturevalue("postgresql"))
            name = f"t{os.urandom(6).hex()}"
            subprocess.run(["psql", "-q", f"{server}/postgres", "-c", f"CREATE DATABASE {name}"], check=True)
            return f"{server}/{name}"
        case _:
            return f"sqlite:///{tmp_path}/data/baremetal.db"


@pytest.fixture
def secrets() -> Secrets:
    return Secrets.ephemeral()


@pytest.fixture
def store(url: str, secrets: Secrets) -> Iterator[Store]:
    opened = Store.open(url, secrets)
    yield opened
    opened.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever uses a store on every kind of database, unless its module names fewer in `STORES`."""
    if "url" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "STORES", ("memory", "file", "postgresql"))
        slow = {"postgresql": pytest.mark.long}
        marked = [pytest.param(kind, marks=slow[kind]) if kind in slow else kind for kind in kinds]
        metafunc.parametrize("url", marked, indirect=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL on a free port, with its data in a temporary folder; returns its URL without a database."""
    programs = _programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("needs initdb, psql and psycopg")
    # initdb refuses root
    user = None if os.getuid() else "nobody"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        data = Path(folder, "data")
        data.mkdir()
        if user:
            shutil.chown(folder, user)
            shutil.chown(data, user)
        subprocess.run(
            [*_words(programs / "initdb", "-D", data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"],
            check=True,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        control = _words(programs / "pg_ctl", "-D", data, "-w", "-l", Path(folder, "log"))
        subprocess.run(
            [*control, "-o", options, "start"], check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL
        )
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], user=user, cwd=folder, stdout=subprocess.DEVNULL
            )


def _programs() -> Path | None:
    found = [Path(path).parent for name in ("initdb",) if (path := shutil.which(name))]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def _words(*words: str | Path) -> list[str]:
    return [str(word) for word in words]
