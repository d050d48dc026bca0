"""One service to a data directory: a second one would void the first one's reservations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from baremetal.config import Config
from baremetal.errors import Unavailable
from baremetal.serving import occupy, run


def test_a_second_service_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    settings = {"data_dir": str(folder), "boot_listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0"}
    config = Config.model_validate({"server": settings})
    urls: list[str] = []

    async def start_and_stop() -> None:
        halt = asyncio.Event()
        halt.set()
        await run(config, halt, lambda *ready: urls.extend(ready))

    with occupy(folder), pytest.raises(Unavailable, match="another service"):
        asyncio.run(start_and_stop())
    assert [file.name for file in folder.iterdir()] == ["serve.lock"], "nothing was opened"
    asyncio.run(start_and_stop())
    assert len(urls) == 2
    with occupy(folder), pytest.raises(Unavailable, match="another service"), occupy(folder):
        pass


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Unavailable, match=r"file/data cannot be made: Not a directory"),
        occupy(tmp_path / "file" / "data"),
    ):
        pass
