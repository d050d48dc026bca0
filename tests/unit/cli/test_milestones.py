"""Events recorded from real deploys of virtual servers, and what a person reads of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from baremetal.cli.milestones import (
    Mark,
    Milestones,
    human_size,
    human_time,
    parse_time,
    split_code,
    waiting_for,
)

RECORDED = Path(__file__).parent / "recorded"
DISKS = [{"name": "vda", "serial": "LAB7742-1-0", "size": 268435456}]


def recorded(name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads((RECORDED / f"{name}.json").read_text())
    return sorted(events, key=lambda event: (parse_time(event["at"]), event["id"]))


def tell(events: Sequence[dict[str, Any]], run: int, **more: Any) -> Milestones:
    told = Milestones("r1", run, **more)
    for event in events:
        told.feed(event)
    return told


def test_a_deploy_is_told_from_the_verb_to_active() -> None:
    told = tell(recorded("deployed"), 2, profile="tiny", disks=DISKS)
    assert [(row.mark, row.title, row.detail) for row in told.rows] == [
        (Mark.BEGIN, "deploy", "tiny · asked by first-start"),
        (Mark.DONE, "power off", "already so"),
        (Mark.DONE, "boot device pxe, once", ""),
        (Mark.DONE, "power on", ""),
        (Mark.DONE, "boot script fetched", "127.0.0.1"),
        (Mark.DONE, "kernel fetched", "vmlinuz"),
        (Mark.DONE, "initrd fetched", "initrd.img"),
        (Mark.DONE, "answer file fetched", "ks.cfg"),
        (Mark.STAGE, "pre", ""),
        (Mark.DONE, "go", "vda · LAB7742-1-0 · 256 MiB"),
        (Mark.STAGE, "partitioning", "writing vda"),
        (Mark.STAGE, "post", ""),
        (Mark.DONE, "install complete", ""),
        (Mark.DONE, "boot device disk, persistent", ""),
        (Mark.DONE, "first boot", "127.0.0.1"),
        (Mark.DONE, "proof by SSH", "ssh to 127.0.0.1 port 37047 answered with this run's id"),
        (Mark.END, "active", ""),
    ]
    assert (told.ended, told.failed) == ("active", False)


def test_the_durations_add_up_to_the_time_since_the_start() -> None:
    told = tell(recorded("deployed"), 2)
    assert told.rows[0].since_s == 0
    for before, row in zip(told.rows, told.rows[1:], strict=False):
        assert row.since_s >= before.since_s
        assert row.took_s == pytest.approx(row.since_s - before.since_s, abs=1e-6)
    assert told.took_s == told.rows[-1].since_s > 60


def test_a_failed_install_ends_with_its_reason_and_code() -> None:
    told = tell(recorded("install_failed"), 3)
    assert (told.ended, told.failed, told.code) == ("deploy failed", True, "BM404")
    assert told.reason == "the installer failed: partitioning: the installer stopped with an error"
    assert told.rows[-1].mark is Mark.FAIL
    assert told.logs == ["anaconda.log"]


def test_an_abort_is_told_with_the_closing_power_off() -> None:
    told = tell(recorded("aborted"), 2)
    assert [(row.mark, row.title) for row in told.rows[-2:]] == [
        (Mark.FAIL, "giving up"),
        (Mark.DONE, "power off"),
    ]
    assert (told.ended, told.failed, told.reason) == ("deploy failed", True, "aborted by first-start")


def test_other_runs_are_passed_over() -> None:
    assert tell(recorded("deployed"), 3).rows == []


def test_events_behind_the_end_add_nothing() -> None:
    events = recorded("deployed")
    told = tell(events, 2)
    count = len(told.rows)
    for event in events:
        assert told.feed(event) == []
    assert len(told.rows) == count


START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, body: dict[str, Any] | None, note: str = "", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "at": (START + timedelta(seconds=number)).isoformat(),
        "server": "r1",
        "run": 7,
        "kind": "decision" if body is not None else "observation",
        "note": note,
        "from_state": "deploying",
        "to_state": "deploying",
        "outcome": "changed",
        "event": body,
        "data": {},
    } | more


ASKED = event(1, {"type": "asked", "verb": "deploy", "by": "ann"}, from_state="available")


def test_progress_of_one_stage_replaces_itself() -> None:
    told = tell([ASKED], 7)
    for number, message in ((2, "10 %"), (3, "50 %")):
        told.feed(
            event(number, {"type": "heard", "signal": "progress", "stage": "packages", "message": message})
        )
    assert [(row.title, row.detail) for row in told.rows[1:]] == [("packages", "50 %")]
    assert told.rows[-1].since_s == 2


def test_retries_replace_each_other_and_show_their_code() -> None:
    told = tell([ASKED], 7)
    for number in (2, 3):
        told.feed(
            event(number, {"type": "failed", "step": 0}, f"BM101 no answer; trying again in {number} s")
        )
    (row,) = told.rows[1:]
    assert (row.mark, row.code, row.detail) == (Mark.WARN, "BM101", "no answer; trying again in 3 s")


def test_a_second_netboot_attempt_shows_its_fetches_again() -> None:
    told = tell([ASKED], 7)
    seen = {"what": "kernel", "address": "10.0.0.9", "file": "x/vmlinuz"}
    told.feed(event(2, None, data=seen))
    told.feed(event(3, None, data=seen))
    told.feed(event(4, {"type": "overdue"}, "no boot script was asked for within 5 s; netboot begins again"))
    told.feed(event(5, None, data=seen))
    assert [row.title for row in told.rows[1:]] == ["kernel fetched", "netboot again", "kernel fetched"]


def test_an_answer_file_fetched_from_elsewhere_is_a_warning() -> None:
    told = tell([ASKED], 7)
    for number, address in ((2, "10.0.0.9"), (3, "10.0.0.9"), (4, "10.0.0.66")):
        told.feed(event(number, None, data={"what": "answer", "address": address, "file": "ks.cfg"}))
    assert [(row.mark, row.detail) for row in told.rows[1:]] == [
        (Mark.DONE, "ks.cfg"),
        (Mark.WARN, "from a second address, 10.0.0.66"),
    ]


def test_a_deploy_that_never_netboots_ends_with_its_code() -> None:
    told = tell([ASKED], 7)
    note = "BM301 no boot script was asked for within 900 s of power on, 3 times; the run is closed, power off follows"
    told.feed(event(2, {"type": "overdue", "step": 3}, note))
    told.feed(
        event(3, {"type": "did", "step": 0, "wrote": True}, "power off: done", to_state="deploy failed")
    )
    assert (told.failed, told.code) == (True, "BM301")
    assert told.reason.startswith("no boot script was asked for")


def test_a_refused_machine_and_maintenance_are_warnings() -> None:
    told = tell([ASKED], 7)
    told.feed(event(2, {"type": "heard", "signal": "install-started"}, "go refused", outcome="refused"))
    told.feed(event(3, {"type": "maintenancechanged", "on": True, "by": "ann"}))
    told.feed(event(4, {"type": "heard", "signal": "first-boot"}, "first-boot, again", outcome="no-op"))
    assert [(row.mark, row.title) for row in told.rows[1:]] == [
        (Mark.WARN, "refused"),
        (Mark.WARN, "maintenance on"),
    ]


def test_what_is_waited_for_comes_from_the_step() -> None:
    run: dict[str, Any] = {"step": "complete", "last_sign": "packages 50 %", "attempt": 1}
    assert waiting_for({"run": run}) == "installing: packages 50 %"
    run |= {"last_sign": "go for disk vda", "go": {"disk": "vda"}}
    assert waiting_for({"run": run}) == "installing on vda"
    assert waiting_for({"run": {"step": "script", "attempt": 2}}).endswith("(attempt 2)")
    assert waiting_for({"run": None}) == ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("BM401 no call-back", ("BM401", "no call-back")),
        ("failed: BM404 the installer", ("BM404", "failed: the installer")),
        ("nothing here", ("", "nothing here")),
    ],
)
def test_codes_are_taken_off_sentences(text: str, parts: tuple[str, str]) -> None:
    assert split_code(text) == parts


def test_sizes_and_times_are_written_as_people_do() -> None:
    assert [human_size(size) for size in (268435456, 480_103_981_056, 4_000_787_030_016)] == [
        "256 MiB",
        "480 GB",
        "4.0 TB",
    ]
    assert [human_time(seconds) for seconds in (4.26, 65, 3700)] == ["4.3 s", "1:05", "1:01:40"]


def test_what_a_wipe_waits_for_is_its_last_sign_of_life() -> None:
    run = {
        "verb": "release",
        "step": "complete",
        "last_sign": "vda 40 % serial S1: overwriting",
        "attempt": 1,
    }
    assert waiting_for({"run": run}) == "wiping: vda 40 % serial S1: overwriting"
    assert waiting_for({"run": run | {"verb": "rescue", "step": "started", "last_sign": ""}}).endswith(
        "no sign of life yet"
    )
    assert waiting_for({"run": run | {"step": "still off"}}) == "making sure that the power is off"
