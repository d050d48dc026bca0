"""TFTP while the service runs: the responder's questions put to `files.py`, and how they ended put on timelines.

Owns the translation between the two, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from baremetal.netboot.tftp import Content, FileContent, Limits, Outcome, Request, Seen, TftpServer
from baremetal.service.boot.files import Files
from baremetal.service.boot.requests import FileRequest


def tftp_server(
    files: Files,
    listen: tuple[str, int],
    base: Callable[[str, str], str],
    *,
    executor: Executor,
    later: Callable[[Callable[[], None]], object],
    limits: Limits,
) -> TftpServer:
    """Make the responder; it is started and stopped in the event loop.

    `base`: our URL by who asks and the address that was asked. `executor` runs look-ups and reads, `later` the notes:
    the loop waits for neither.
    """

    def resolve(asked: Request) -> Content | None:
        found = files.resolve(asked.name, asked.client, base(asked.client, asked.local or ""))
        return FileContent(found) if isinstance(found, Path) else found

    def saw(seen: Seen) -> None:
        # Firmware asks for the size, declines, and asks again in earnest: only that is news.
        if seen.outcome is Outcome.PROBED:
            return
        served = seen.outcome is Outcome.SERVED
        reason = seen.reason or str(seen.outcome)
        looked = seen.outcome is Outcome.LOOKED
        told = FileRequest(seen.client, seen.name, served, seen.bytes, reason, seen.is_harmless, looked)
        try:
            later(lambda: files.saw(told))
        except RuntimeError:  # the service is being stopped
            return

    host, port = listen
    return TftpServer(host, port, resolve, executor=executor, seen=saw, limits=limits)
