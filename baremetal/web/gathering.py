"""What comes in while one commit is under way, or just after it, is committed with the next one.

A flush to the disk and the way to another thread and back cost as much for sixty requests as for one; a rack that is
switched on asks for its boot scripts all at once. Machines that were answered together ask their next question
together: after a batch that was shared the next one waits a moment, so that they meet again. A request that comes alone
does not wait for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
MOST = 128
MOMENT_S = 0.003


class Gathering(Generic[Q, A]):
    """Hand questions to `work` in another thread, as many at a time as have gathered. For one event loop."""

    def __init__(self, executor: Executor, work: Callable[[list[Q]], list[A]]) -> None:
        self._executor = executor
        self._work = work
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._begun = False  # a batch is at work, or about to be taken

    async def ask(self, question: Q) -> A:
        """Return the answer to one question. Raises whatever `work` raises, for all that it was given."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if not self._begun:
            self._begun = True
            loop.call_soon(self._begin, loop)  # behind all that came in with this one
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        if not batch:
            self._begun = False
            return
        try:
            self._executor.submit(self._run, loop, batch)
        except RuntimeError as error:  # it is shut down
            self._end(loop, [future for _, future in batch], [], error)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        answers: list[A] = []
        trouble: Exception | None = None
        try:
            answers = self._work([question for question, _ in batch])
        except Exception as error:
            trouble = error
        try:
            loop.call_soon_threadsafe(self._end, loop, [future for _, future in batch], answers, trouble)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _end(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: list[asyncio.Future[A]],
        answers: list[A],
        trouble: Exception | None,
    ) -> None:
        if len(futures) > 1 and len(self._waiting) < MOST:
            loop.call_later(MOMENT_S, self._begin, loop)
        else:
            self._begin(loop)
        for number, future in enumerate(futures):
            if future.done():  # its machine has hung up
                continue
            if trouble is not None:
                future.set_exception(trouble)
            else:
                future.set_result(answers[number])
