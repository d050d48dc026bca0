"""What the timeline looks like in a pipe, and that a terminal gets colour and a pipe none."""

from __future__ import annotations

import io
import re

import pytest

from baremetal.cli.live import Screen
from baremetal.cli.milestones import Milestones
from tests.unit.cli.test_milestones import DISKS, recorded


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(name: str, run: int, stream: io.StringIO) -> str:
    told = Milestones("r1", run, profile="tiny", disks=DISKS)
    with Screen(["r1"], stream) as screen:
        screen.head("deploy r1")
        for event in recorded(name):
            screen.add(told, told.feed(event))
            screen.status({"name": "r1", "run": {"step": "complete", "last_sign": "post", "deadline": None}})
            screen.tick()
        screen.finish(told, ["error: cannot fetch image"] if told.failed else [])
    return stream.getvalue()


def test_in_a_pipe_there_are_plain_aligned_lines() -> None:
    text = show("deployed", 2, io.StringIO())
    assert "\x1b" not in text
    lines = [re.sub(r"^  \d\d:\d\d:\d\d", "  hh:mm:ss", line) for line in text.splitlines()]
    assert lines[:5] == [
        "deploy r1",
        "",
        "  hh:mm:ss    0.0 s          ▸ deploy                       tiny · asked by first-start",
        "  hh:mm:ss    0.1 s    +0.1  ✓ power off                    already so",
        "  hh:mm:ss    0.1 s    +0.0  ✓ boot device pxe, once",
    ]
    assert lines[-1] == "✓ r1 is active after 1:17  (tiny, run 2)"


def test_a_failure_says_why_what_was_last_seen_and_what_to_do() -> None:
    tail = show("install_failed", 3, io.StringIO()).splitlines()[-5:]
    assert tail == [
        "✗ r1: deploy failed after 34.7 s  (run 3)",
        "  why        BM404  the installer failed: partitioning: the installer stopped with an error",
        "  last sign  log uploaded anaconda.log, at 33.4 s",
        "  its log    error: cannot fetch image",
        "  do         read the installer's own words: `baremetal logs r1`",
    ]


def test_a_terminal_gets_colour_and_a_line_for_what_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = show("deployed", 2, Terminal())
    assert "\x1b[32m✓" in text
    assert "installing: post" in text


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*m", show("deployed", 2, Terminal()))


def test_several_servers_in_a_pipe_carry_their_names() -> None:
    out = io.StringIO()
    with Screen(["r1", "node-2"], out) as screen:
        for name in ("r1", "node-2"):
            told = Milestones(name, 2)
            for event in recorded("deployed"):
                screen.add(told, told.feed(event))
            screen.finish(told)
    lines = out.getvalue().splitlines()
    assert any(re.match(r"  \d\d:\d\d:\d\d  node-2    0\.1 s    \+0\.1  ✓ power off", line) for line in lines)
    assert lines[-1].startswith("✓ node-2 is active")
