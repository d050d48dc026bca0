"""One engine per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.engine.rig import Rig, rig_on


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_on() as built:
        yield built
