"""One service to a data directory: a second one would void the first one's reservations."""

from __future__ import annotations

from pathlib import Path

import pytest

from baremetal.config import Config
from baremetal.errors import Unavailable
from baremetal.wiring import build


def test_a_second_service_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"server": {"data_dir": str(tmp_path), "public_url": "http://127.0.0.1:1"}}
    )
    first = build(config)
    with pytest.raises(Unavailable, match="another service"):
        build(config)
    first.stop()
    build(config).stop()
