"""Writes to a SQLite file, one after the other, that share one transaction and so one flush to the disk.

A flush takes longer than most writes. So a write that ends while another one waits for its turn leaves the commit to
that one, and returns when it has happened: whoever ends with nobody behind him commits for all before him. A write that
comes alone is committed at once. Each is a savepoint, which it can go back to by itself; a fault that ends the
transaction undoes all that share it, and every one of them is told. Knows no table and no statement but its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from baremetal.store.connection import Connection
from baremetal.store.faults import WAIT_S, busy, is_fault, unavailable, undo

# The first of many must not wait for all that come after it.
MOST = 64
LONGEST_S = 0.02
# How often one that waits for the commit looks whether he who should have made it is gone.
_LOOK_S = 0.05


class _Ride:
    """One transaction, shared by `members` writes that have ended well."""

    __slots__ = ("began", "cause", "connection", "done", "members")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.members = 0
        self.began = time.monotonic()
        self.done = threading.Event()
        self.cause: BaseException | None = None


class Convoy:
    """All writes of this process to one file. `take` and `give_back` lend the connection for one transaction."""

    def __init__(self, take: Callable[[], Connection], give_back: Callable[[Connection], None]) -> None:
        self._take = take
        self._give_back = give_back
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._ride: _Ride | None = None

    def write(self) -> Seat:
        """Return the context of one write. Raises Unavailable; then nothing of it is written."""
        return Seat(self)

    # -- by him whose turn it is --

    def enter(self) -> tuple[_Ride, bool]:
        """Wait for the turn, and return the transaction, and whether others have written in it already."""
        with self._counting:
            self._waiting += 1
        try:
            if not self._turn.acquire(timeout=WAIT_S):
                raise busy()
        finally:
            with self._counting:
                self._waiting -= 1
        ride = self._ride
        try:
            if ride is not None:
                ride.connection.driver.execute("SAVEPOINT seat")
                return ride, True
            return self._begin(), False
        except BaseException as error:
            if ride is not None:
                self._end(ride, error)
            self._turn.release()
            if is_fault(error):
                raise unavailable(error) from error
            raise

    def leave(self, ride: _Ride, saved: bool, error: BaseException | None) -> None:
        """End a write, commit for all where nobody is behind, and give the turn away. Raises nothing."""
        try:
            if error is None:
                if saved:
                    ride.connection.driver.execute("RELEASE seat")
                ride.members += 1
            elif saved:  # where the fault has ended the whole transaction, this is one too
                ride.connection.driver.execute("ROLLBACK TO seat")
                ride.connection.driver.execute("RELEASE seat")
            else:
                undo(ride.connection)
                self._end(ride, None)
            if self._ride is ride and not self._goes_on(ride):
                self._commit(ride)
        except BaseException as fault:
            self._end(ride, fault)
        finally:
            self._turn.release()

    def await_end(self, ride: _Ride) -> None:
        """Return when what was written is committed. Raises Unavailable where it is undone."""
        while not ride.done.wait(_LOOK_S):
            # He who was behind may have given up waiting just when the commit was left to him.
            if self._turn.acquire(blocking=False):
                try:
                    if self._ride is ride:
                        self._commit(ride)
                finally:
                    self._turn.release()
        if ride.cause is not None:
            raise unavailable(ride.cause) from ride.cause

    def _begin(self) -> _Ride:
        connection = self._take()
        try:
            # A deferred transaction fails with "database is locked" half-way. Past the library, whose own beginning
            # says nothing to a driver without isolation level.
            connection.driver.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lend_no_longer(connection)
            raise
        self._ride = _Ride(connection)
        return self._ride

    def _goes_on(self, ride: _Ride) -> bool:
        return self._waiting > 0 and ride.members < MOST and time.monotonic() - ride.began < LONGEST_S

    def _commit(self, ride: _Ride) -> None:
        try:
            ride.connection.commit()
        except BaseException as error:
            self._end(ride, error)
        else:
            self._end(ride, None)

    def _end(self, ride: _Ride, cause: BaseException | None) -> None:
        """The transaction is over. With a cause it is undone, and all in it hear of it. Idempotent."""
        if self._ride is not ride:
            return
        self._ride = None
        ride.cause = cause
        if cause is not None:
            undo(ride.connection)
        self._lend_no_longer(ride.connection)
        ride.done.set()

    def _lend_no_longer(self, connection: Connection) -> None:
        try:
            self._give_back(connection)
        except Exception as error:
            if not is_fault(error):
                raise


class Seat:
    """One write in a convoy."""

    __slots__ = ("_convoy", "_ride", "_saved")

    def __init__(self, convoy: Convoy) -> None:
        self._convoy = convoy

    def __enter__(self) -> Connection:
        self._ride, self._saved = self._convoy.enter()
        return self._ride.connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._convoy.leave(self._ride, self._saved, error)
        if error is None:
            self._convoy.await_end(self._ride)
        elif is_fault(error):
            raise unavailable(error) from error
