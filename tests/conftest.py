"""Options and fixtures that every test folder shares."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bmc",
        metavar="URL",
        default=None,
        help="run the BMC contract tests against this BMC (ipmi://user:password@host) as well",
    )
    parser.addoption(
        "--record-dialogues",
        action="store_true",
        default=False,
        help="write down what is said to the storage host in tests/lab, for the replays in tests/contract",
    )


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's BAREMETAL_… settings out of the tests, and the tests' out of each other."""
    for name in [name for name in os.environ if name.startswith("BAREMETAL_")]:
        monkeypatch.delenv(name)
