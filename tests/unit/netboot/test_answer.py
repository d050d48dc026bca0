"""The boot answer, from state: an installer inside an open window only, local boot for everything else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from baremetal.lifecycle.model import BootTarget, Go, Method, ProvisionState, Run, Server, Signal, Verb
from baremetal.netboot.answer import Install, LocalBoot, TargetBoot, choose_answer

AT = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = Run(
    number=3, verb=Verb.DEPLOY, method=Method.INSTALLER, started=AT, entered=AT, power_on_intended=True
)


def server(
    run: Run | None = OPEN, state: ProvisionState = ProvisionState.WAIT_CALLBACK, maintenance: bool = False
) -> Server:
    return Server("node-1", state=state, run=run, maintenance=maintenance)


def test_an_open_window_installs() -> None:
    answer = choose_answer(server())
    assert isinstance(answer, Install)
    assert answer.run == 3
    assert "run 3" in answer.reason


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (None, "unknown machine"),
        (server(replace(OPEN, power_on_intended=False)), "power-on is not intended"),
        (server(replace(OPEN, go=Go("b", "vda", "192.0.2.9", AT))), "go was given"),
        (server(replace(OPEN, serves=3)), "3 times already"),
        (server(replace(OPEN, closing="aborted")), "being closed"),
        (server(replace(OPEN, method=None, verb=Verb.RELEASE)), "installs nothing"),
        (server(maintenance=True), "maintenance"),
        (server(None, ProvisionState.AVAILABLE), "available"),
        (server(None, ProvisionState.ENROLL), "enroll"),
        (server(None, ProvisionState.DEPLOY_FAILED), "deploy failed"),
        (
            server(replace(OPEN, go=Go("b", "vda", "", AT), heard=frozenset([Signal.INSTALL_COMPLETE]))),
            "go was given",
        ),
    ],
)
def test_everything_else_boots_locally_and_says_why(asked: Server | None, words: str) -> None:
    answer = choose_answer(asked)
    assert isinstance(answer, LocalBoot)
    assert words in answer.reason


def test_an_active_server_boots_its_target() -> None:
    answer = choose_answer(server(None, ProvisionState.ACTIVE))
    assert isinstance(answer, TargetBoot)
    assert answer.target is BootTarget.DISK
