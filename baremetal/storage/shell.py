"""Commands on this machine: the shell of a storage host that we are ourselves.

Owns deadlines and that nothing outlives them: a command runs in a process group of its own, which is ended with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.storage.base import Output

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Texts are compared, so they are always English; what of our own settings is none of a command's business stays here.
_ENVIRONMENT: Mapping[str, str] = {"PATH": _PATH, "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class LocalShell:
    """See `base.Shell`."""

    place: str = "this machine"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output:
        return self.send(argv, iter((stdin,)), deadline_s=deadline_s)

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        process = _start(argv)
        deadline = time.monotonic() + deadline_s
        try:
            return _feed(process, source, deadline)
        except TimeoutError:
            raise _late(argv, deadline_s) from None
        finally:
            _end(process)

    @contextmanager
    def holding(self, argv: Sequence[str], *, deadline_s: float) -> Iterator[None]:
        process = _start(argv)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            with selectors.DefaultSelector() as ready:
                ready.register(process.stdout, selectors.EVENT_READ)
                if not ready.select(deadline_s):
                    raise _late(argv, deadline_s)
            if not process.stdout.read1(64):  # type: ignore[attr-defined]
                process.wait(5.0)
                said = process.stderr.read().decode("utf-8", "replace").strip()
                raise StorageError(
                    f"{argv[0]} on this machine ended at once",
                    StorageErrorKind.FAILED,
                    seen=said[:300] or None,
                )
            yield
        finally:
            _end(process)


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            list(argv), stdin=pipe, stdout=pipe, stderr=pipe, env=dict(_ENVIRONMENT), process_group=0
        )
    except FileNotFoundError:
        raise StorageError(
            f"there is no {argv[0]} on this machine",
            StorageErrorKind.MISSING,
            fix="install what docs/storage.md names for this kind of storage host",
        ) from None
    except OSError as error:
        raise StorageError(
            f"{argv[0]} cannot be run on this machine", StorageErrorKind.FAILED, seen=str(error)
        ) from error


def _feed(process: subprocess.Popen[bytes], source: Iterator[bytes], deadline: float) -> Output:
    """Write and read at once, so that neither side waits for the other. Raises TimeoutError."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    heard: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    chunk = memoryview(b"")
    with selectors.DefaultSelector() as ready:
        for fd in heard:
            ready.register(fd, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        ready.register(process.stdin, selectors.EVENT_WRITE)
        while ready.get_map():
            for key, _ in ready.select(max(0.0, deadline - time.monotonic())):
                if key.fileobj is not process.stdin:
                    data = os.read(key.fd, 65536)
                    heard[key.fd] += data
                    if not data:
                        ready.unregister(key.fd)
                    continue
                if not chunk and (more := next(source, None)) is not None:
                    chunk = memoryview(more)
                    if not chunk:
                        continue
                try:
                    chunk = chunk[os.write(key.fd, chunk) :] if chunk else _close(ready, process)
                except BrokenPipeError:  # it has read enough: its status says why
                    chunk = _close(ready, process)
            if time.monotonic() >= deadline:
                raise TimeoutError
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    out, err = (bytes(part).decode("utf-8", "replace") for part in heard.values())
    return Output(process.returncode, out, err)


def _close(ready: selectors.BaseSelector, process: subprocess.Popen[bytes]) -> memoryview:
    assert process.stdin
    ready.unregister(process.stdin)
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    return memoryview(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass
    try:
        process.wait(
            0.2 if process.stdin is not None else 0.0
        )  # what waits for the end of its input ends by itself
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _late(argv: Sequence[str], deadline_s: float) -> StorageError:
    return StorageError(
        f"{argv[0]} on this machine was not done within {deadline_s:g} s", StorageErrorKind.UNREACHABLE
    )
