"""Draws milestones: lines that stay, and below them, on a terminal, one line for what is being waited for.

In a pipe only the lines, without colour. Knows nothing of where rows come from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from baremetal.cli.advice import next_step
from baremetal.cli.milestones import Mark, Milestones, Row, human_time, parse_time, waiting_for
from baremetal.cli.paint import is_terminal, wants_colour

_SIGNS = {
    Mark.BEGIN: ("▸", "bold"),
    Mark.DONE: ("✓", "green"),
    Mark.STAGE: ("·", "cyan"),
    Mark.WARN: ("!", "yellow"),
    Mark.FAIL: ("✗", "red"),
    Mark.END: ("●", "bold green"),
}
_TITLE = 28


def console_for(stream: TextIO) -> Console:
    """Make a console that draws live only for a person, and uses colour only where it is wanted."""
    live = is_terminal(stream)
    return Console(
        file=stream,
        force_terminal=live,
        color_system="auto" if wants_colour(stream) else None,
        no_color=not wants_colour(stream),
        width=None if live else 240,
        highlight=False,
        markup=False,
        emoji=False,
    )


class Screen:
    """The rows of some servers as they come. Use as a context; all methods belong to one thread, but `lost`."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None) -> None:
        self.console = console_for(stream or sys.stdout)
        self.names = list(names)
        self._many = len(self.names) > 1
        self._wide = max((len(name) for name in self.names), default=0)
        self._pending: dict[str, Row] = {}
        self._told: dict[str, Milestones] = {}
        self._servers: dict[str, Mapping[str, Any]] = {}
        self._lost = ""
        self._live: Live | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._bottom,
                # Drawn by `tick`, in the thread that prints: two threads' lines may overtake each other.
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; what is shown stays. Idempotent."""
        if self._live is None:
            return
        self._flush()
        self._live.stop()
        self._live = None
        if self._many:
            for name in self.names:
                if name not in self._ended:
                    self._line(self._summary(name))

    def tick(self) -> None:
        """Draw what moves; to be called several times a second."""
        if self._live is not None:
            self._live.refresh()

    # -- what comes in --

    def head(self, text: str) -> None:
        """Print a heading."""
        self.console.print(Text(text, style="bold"))
        self.console.print()

    def add(self, told: Milestones, rows: Sequence[Row]) -> None:
        """Show new rows of a server."""
        self._told[told.server] = told
        if self._many and self._live is not None:
            return  # the table at the bottom shows the newest; failures are told when they end
        for row in rows:
            kept = self._pending.pop(told.server, None)
            if kept is not None and kept.key != row.key:
                self._print(told, kept)
            if row.key and self._live is not None:
                self._pending[told.server] = row
            elif not (row.key and kept is not None and kept.key == row.key):
                self._print(told, row)

    def status(self, server: Mapping[str, Any]) -> None:
        """Take what the service says of a server now."""
        self._servers[server["name"]] = server

    def lost(self, problem: str) -> None:
        """Say that the service is away; "" once it is back."""
        self._lost = problem

    def finish(self, told: Milestones, said: Sequence[str] = ()) -> None:
        """Say how a run ended: one line, or for a failure all that helps; `said` are the installer's last lines."""
        self._told[told.server] = told
        self._ended.add(told.server)
        self._flush(told.server)
        name = told.server
        if not told.failed:
            text = Text.assemble(
                ("✓ ", "green"),
                (name, "bold"),
                " is ",
                (told.ended, "bold green"),
                f" after {human_time(told.took_s)}",
            )
            if told.profile:
                text.append(f"  ({told.profile}, run {told.run})", "dim")
            self._line(text)
            return
        self._line(
            Text.assemble(
                ("✗ ", "red"),
                (name, "bold"),
                ": ",
                (told.ended or "failed", "bold red"),
                f" after {human_time(told.took_s)}",
                (f"  (run {told.run})", "dim"),
            )
        )
        pairs = [("why", f"{told.code}  {told.reason}" if told.code else told.reason)]
        done = [row for row in told.rows if row.mark in (Mark.DONE, Mark.STAGE)]
        if done:
            last = done[-1]
            pairs.append(
                ("last sign", f"{last.title} {last.detail}".strip() + f", at {human_time(last.since_s)}")
            )
        pairs += [("its log" if at == 0 else "", line) for at, line in enumerate(said)]
        step = next_step(told.code, name)
        pairs.append(("do", step or f"baremetal explain {name}"))
        if told.logs and "logs" not in step:
            pairs.append(("", f"baremetal logs {name}"))
        for word, text_ in pairs:
            self._line(Text.assemble((f"  {word:<11}", "dim"), (text_, "red" if word == "why" else "")))

    # -- lines --

    def _line(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)

    def _print(self, told: Milestones, row: Row) -> None:
        text = self._text(told.server, row)
        if self.console.is_terminal and row.mark is not Mark.FAIL:
            text.truncate(self.console.width, overflow="ellipsis")
        self.console.print(text, soft_wrap=True)

    def _text(self, server: str, row: Row) -> Text:
        sign, style = _SIGNS[row.mark]
        took = f"+{row.took_s:.1f}" if row.mark is not Mark.BEGIN else ""
        text = Text()
        text.append(f"  {row.at.astimezone():%H:%M:%S}", "dim")
        if self._many:
            text.append(f"  {server:<{self._wide}}", "bold")
        text.append(f" {_elapsed(row.since_s):>8}", "")
        text.append(f" {took:>7}  ", "dim")
        text.append(f"{sign} ", style)
        strong = style if row.mark in (Mark.FAIL, Mark.END, Mark.WARN) else ""
        text.append(f"{row.title:<{_TITLE}}" if row.detail or row.code else row.title, strong)
        if row.code:
            text.append(f" {row.code}", "bold red" if row.mark is Mark.FAIL else "bold yellow")
        if row.detail:
            text.append(f" {row.detail}", {Mark.FAIL: "red", Mark.WARN: "yellow"}.get(row.mark, "dim"))
        return text

    def _flush(self, server: str | None = None) -> None:
        for name in [server] if server is not None else list(self._pending):
            row = self._pending.pop(name, None)
            if row is not None:
                self._print(self._told[name], row)

    # -- the bottom of a terminal --

    def _bottom(self) -> RenderableType:
        lines: list[RenderableType] = []
        if self._many:
            lines += self._table()
        else:
            for name in self.names:
                if (row := self._pending.get(name)) is not None:
                    text = self._text(name, row)
                    text.truncate(self.console.width, overflow="ellipsis")
                    lines.append(text)
                if (waits := self._waiting(name)) is not None:
                    lines.append(waits)
        if self._lost:
            lines.append(Text(f"  {self._lost}; trying again", style="yellow"))
        return Group(*lines)

    def _waiting(self, name: str) -> Text | None:
        server, told = self._servers.get(name), self._told.get(name)
        if name not in self._ended and told is None and (server or {}).get("waiting"):
            return self._turning().append(f" {waiting_for(server or {})}", "cyan")
        if name in self._ended or told is None or told.started_at is None or told.ended:
            return None
        elapsed = max(told.took_s, time.time() - told.started_at.timestamp())
        what = waiting_for(server) if server is not None else ""
        text = Text()
        text.append(" " * 11 + f"{_elapsed(elapsed):>8}" + " " * 10)
        text.append_text(self._turning())
        text.append(f" {what or 'waiting'}", "cyan")
        run = (server or {}).get("run") or {}
        if run.get("deadline"):
            text.append(f"   {_left(parse_time(run['deadline']))}", "dim")
        if run.get("trouble"):
            text.append(f"   {run['trouble']}", "yellow")
        text.truncate(self.console.width, overflow="ellipsis")
        return text

    def _turning(self) -> Text:
        frame = self._spinner.render(time.monotonic())
        return frame if isinstance(frame, Text) else Text("·")

    def _table(self) -> list[Text]:
        """One line per server: those that failed or move first, where the terminal is too short for all."""
        room = max(3, self.console.height - 4)
        order = self.names
        if len(order) > room:
            order = sorted(order, key=self._rank)
        lines = [self._summary(name) for name in order[:room]]
        if len(order) > room:
            lines.append(Text(f"  … and {len(order) - room} more", style="dim"))
        done = sum(1 for told in self._told.values() if told.ended and not told.failed)
        bad = sum(1 for told in self._told.values() if told.ended and told.failed)
        tail = Text(f"  {done} done", style="green" if done else "dim")
        tail.append(f", {bad} failed", "red" if bad else "dim")
        tail.append(f", {len(self.names) - done - bad} to go", "dim")
        return [*lines, tail]

    def _rank(self, name: str) -> int:
        told = self._told.get(name)
        if told is None:
            return 2
        return (0 if told.failed else 3) if told.ended else 1

    def _summary(self, name: str) -> Text:
        told, server = self._told.get(name), self._servers.get(name)
        row = told.rows[-1] if told is not None and told.rows else None
        text = Text("  ")
        if told is None or row is None:
            text.append("· ", "dim").append(f"{name:<{self._wide}}", "dim").append("  waits its turn", "dim")
            return text
        if told.ended:
            text.append("✗ " if told.failed else "● ", "red" if told.failed else "green")
            elapsed = told.took_s
        else:
            text.append_text(self._turning()).append(" ")
            assert told.started_at is not None
            elapsed = max(told.took_s, time.time() - told.started_at.timestamp())
        text.append(f"{name:<{self._wide}}", "bold").append(f" {_elapsed(elapsed):>8}  ")
        if told.ended and told.failed:
            text.append(f"{told.ended}  {told.code}  {told.reason}", "red")
        elif told.ended:
            text.append(told.ended, "green")
        else:
            text.append(f"{row.title:<{_TITLE}} ")
            text.append(waiting_for(server) if server is not None else "", "dim")
        text.truncate(self.console.width, overflow="ellipsis")
        return text


def _elapsed(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else human_time(seconds)


def _left(deadline: datetime) -> str:
    seconds = deadline.timestamp() - time.time()
    return f"{human_time(seconds)} left" if seconds > 0 else "overdue"
