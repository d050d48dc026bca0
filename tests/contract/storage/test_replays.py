"""LVM and LIO by replay: the scenarios, held word by word to a dialogue that was written down from a real storage host.

Recorded by `pytest -m long tests/lab/test_storage_host.py --record-dialogues`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.base import Lun, Output, Shell
from baremetal.storage.lio import Lio
from baremetal.storage.lvm import LvmKeeper
from tests.contract.storage import lio_scenarios, lvm_scenarios
from tests.contract.storage.dialogue import FOLDER, Replayer

Scenario = Callable[[Shell], None]
SCENARIOS = {
    f"{backend}-{scenario.__name__.replace('_', '-')}": scenario
    for backend, scenarios in (("lvm", lvm_scenarios.SCENARIOS), ("lio", lio_scenarios.SCENARIOS))
    for scenario in scenarios
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_real_dialogue_again(name: str) -> None:
    shell = Replayer.load(name)
    SCENARIOS[name](shell)
    shell.close()


def test_no_dialogue_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_cut_off_at_any_line_nothing_more_is_said(name: str) -> None:
    """Whatever the code was doing when the storage host went away, it says so and goes on with nothing."""
    whole = Replayer.load(name)
    for cut in range(len(whole.exchanges)):
        shell = CutOff(name, whole.exchanges, cut)
        # an assertion of the scenario's own, where another error was expected
        with pytest.raises((StorageError, AssertionError)):
            SCENARIOS[name](shell)
        assert shell.calls_after_it == 1, f"{name}, exchange {cut + 1}"


class CutOff(Replayer):
    """A replay whose storage host goes away at one exchange, and stays away."""

    def __init__(self, name: str, exchanges: list[dict[str, Any]], cut: int) -> None:
        super().__init__(name, exchanges)
        self.cut = cut
        self.calls_after_it = 0

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        if self.at == self.cut:
            self.calls_after_it += 1
            raise StorageError("the storage host went away", StorageErrorKind.UNREACHABLE)
        return super().run(argv, stdin=stdin, deadline_s=deadline_s)


class Babbling(Replayer):
    """A storage host that answers everything with the same."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        return Output(*self.answer)

    def __init__(self, *answer: Any) -> None:
        super().__init__("babbling", [])
        self.answer = answer


@pytest.mark.parametrize(
    ("status", "out", "err", "kind"),
    [
        (127, "", "env: 'lvs': No such file or directory", StorageErrorKind.MISSING),
        (0, "", "", StorageErrorKind.FAILED),
        (0, '{"report": []}', "", StorageErrorKind.FAILED),
        (0, "[1", "", StorageErrorKind.FAILED),
        (5, "", "  Something else went wrong.", StorageErrorKind.FAILED),
    ],
)
def test_lvm_that_answers_nonsense(status: int, out: str, err: str, kind: StorageErrorKind) -> None:
    with lvm_scenarios.refused(kind):
        LvmKeeper(Babbling(status, out, err), "vg0").volumes()


@pytest.mark.parametrize(
    ("status", "out", "err", "kind"),
    [
        (127, "", "sh: 1: targetcli: not found", StorageErrorKind.MISSING),
        (255, "", "[Errno 2] No such file or directory: '/proc/modules'", StorageErrorKind.MISSING),
        (0, "[]", "", StorageErrorKind.FAILED),
        (0, '{"targets": [{}]}', "", StorageErrorKind.FAILED),
        (0, '{"targets": 1}', "", StorageErrorKind.FAILED),
    ],
)
def test_lio_that_answers_nonsense(status: int, out: str, err: str, kind: StorageErrorKind) -> None:
    with lvm_scenarios.refused(kind):
        Lio(Babbling(status, out, err), "10.0.2.15").targets()


def test_what_lio_shows_is_compared_down_to_the_password() -> None:
    lio = Lio(Replayer("never asked", []), "10.0.2.15")
    luns = (Lun(1, "/dev/vg0/seed", writable=False), Lun(0, "/dev/vg0/one"))
    wanted = replace(lio_scenarios.WANTED, luns=luns)
    shown = replace(wanted, luns=luns[::-1])
    assert lio.agrees(shown, wanted), "their order does not matter"
    assert not lio.agrees(None, wanted)
    assert not lio.agrees(replace(shown, chap=replace(lio_scenarios.CHAP, password="made-up-other")), wanted)
    assert not lio.agrees(replace(shown, luns=shown.luns[:1]), wanted)
