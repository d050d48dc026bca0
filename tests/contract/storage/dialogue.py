"""Dialogues with a storage host: written down from a real one, and replayed to the same code without it.

A dialogue is a JSON list of exchanges (command, standard input, exit status, output). The replaying shell holds the
code to it word by word: it answers only the next exchange, and only when that is what is asked.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baremetal.storage.base import Output, Shell

FOLDER = Path(__file__).parent / "dialogues"
_LONG = 4096  # a longer standard input is written down as its digest


def _compact(out: str) -> str:
    """Write a report in JSON on one line: LIO's takes hundreds."""
    try:
        return json.dumps(json.loads(out)) if out.lstrip().startswith("{") else out
    except ValueError:
        return out


def _as_text(stdin: bytes) -> str:
    if len(stdin) > _LONG or b"\0" in stdin:
        return f"{len(stdin)} bytes, sha256 {hashlib.sha256(stdin).hexdigest()}"
    return stdin.decode()


@dataclass
class Recorder:
    """A shell that writes down what goes through it to another one."""

    inner: Shell
    exchanges: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> str:
        return "the storage host"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        return self._note(argv, stdin, self.inner.run(argv, stdin=stdin, deadline_s=deadline_s))

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        content = b"".join(source)
        return self._note(argv, content, self.inner.send(argv, iter((content,)), deadline_s=deadline_s))

    @contextmanager
    def holding(self, argv: Sequence[str], *, deadline_s: float) -> Iterator[None]:
        with self.inner.holding(argv, deadline_s=deadline_s):
            yield

    def save(self, name: str) -> None:
        FOLDER.mkdir(exist_ok=True)
        text = json.dumps(self.exchanges, indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n")

    def _note(self, argv: Sequence[str], stdin: bytes, done: Output) -> Output:
        exchange: dict[str, Any] = {"run": shlex.join(argv)}
        if stdin:
            exchange["stdin"] = _as_text(stdin).splitlines()
        exchange |= {
            "status": done.status,
            "out": _compact(done.out).splitlines(),
            "err": done.err.splitlines(),
        }
        self.exchanges.append(exchange)
        return done


@dataclass
class Replayer:
    """A shell that answers as a real storage host once did, in the same order, and to the same words only."""

    name: str
    exchanges: list[dict[str, Any]]
    at: int = 0

    @classmethod
    def load(cls, name: str) -> Replayer:
        return cls(name, json.loads((FOLDER / f"{name}.json").read_text()))

    @property
    def place(self) -> str:
        return "the storage host"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        assert self.at < len(self.exchanges), f"{self.name} ends before {shlex.join(argv)}"
        said = self.exchanges[self.at]
        self.at += 1
        assert shlex.join(argv) == said["run"], f"{self.name}, exchange {self.at}: other words"
        assert _as_text(stdin).splitlines() == said.get("stdin", []), (
            f"{self.name}, exchange {self.at}: input"
        )
        # the newline at the end of an output is not kept
        return Output(said["status"], "\n".join(said["out"]), "\n".join(said["err"]))

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        return self.run(argv, stdin=b"".join(source))

    @contextmanager
    def holding(self, argv: Sequence[str], *, deadline_s: float) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Say whether everything that was said then was said now."""
        assert self.at == len(self.exchanges), f"{self.name}: {len(self.exchanges) - self.at} exchanges left"
