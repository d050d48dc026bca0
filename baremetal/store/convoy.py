"""Writes to a SQLite file, one after the other, that share one transaction and so one flush to the disk.

A flush takes longer than most writes. So a write that ends while another one waits for its turn leaves the commit to
that one, and returns when it has happened: whoever ends with nobody behind him commits for all before him. A write that
comes alone is committed at once, and a long one always is: nobody waits for what it does but those whose turn is after
it. Each is a savepoint, which it can go back to by itself; a fault that ends the transaction undoes all that share it,
and every one of them is told why. Knows no table and no statement but its own.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from types import TracebackType

from baremetal.store.connection import Connection
from baremetal.store.faults import WAIT_S, busy, is_fault, unavailable, undo

# The first of many must not wait for all that come after it, however short each is.
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

    @property
    def is_under_way(self) -> bool:
        """Whether its transaction is open: some faults of SQLite end it by themselves."""
        return bool(self.connection.driver.in_transaction)


class Convoy:
    """All writes of this process to one file. `take` and `give_back` lend the connection for one transaction."""

    def __init__(self, take: Callable[[], Connection], give_back: Callable[[Connection], None]) -> None:
        self._take = take
        self._give_back = give_back
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0  # for the turn, and ready to commit for those before
        self._ride: _Ride | None = None

    def write(self, *, long: bool = False) -> Seat:
        """Return the context of one write; a `long` one shares its transaction with none. Raises Unavailable."""
        return Seat(self, long)

    # -- by him whose turn it is --

    def enter(self, long: bool) -> tuple[_Ride, bool]:
        """Wait for the turn, and return the transaction, and whether others have written in it already."""
        if not self._wait(long):
            raise busy()
        try:
            ride = self._ride
            if ride is not None and long:
                self._commit(ride)
                ride = None
            if ride is None:
                return self._begin(), False
            if not ride.is_under_way:
                raise sqlite3.OperationalError("the transaction has ended by itself")
            ride.connection.driver.execute("SAVEPOINT seat")
            return ride, True
        except BaseException as error:
            if self._ride is not None:
                self._end(self._ride, error)
            self._turn.release()
            if is_fault(error):
                raise unavailable(error) from error
            raise

    def leave(self, ride: _Ride, saved: bool, long: bool, error: BaseException | None) -> None:
        """End a write, commit for all where nobody is behind, and give the turn away."""
        try:
            if not ride.is_under_way:
                raise sqlite3.OperationalError("the transaction has ended by itself")
            if error is None:
                if saved:
                    ride.connection.driver.execute("RELEASE seat")
                ride.members += 1
            elif saved:
                ride.connection.driver.execute("ROLLBACK TO seat")
                ride.connection.driver.execute("RELEASE seat")
            else:
                undo(ride.connection)
                self._end(ride, None)
            if self._ride is ride and (long or not self._goes_on(ride)):
                self._commit(ride)
        except BaseException as fault:
            self._end(ride, error if error is not None and is_fault(error) else fault)
            if not isinstance(fault, Exception):
                raise
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

    def _wait(self, long: bool) -> bool:
        """Wait for the turn. A long write is not counted: it commits for nobody before it has begun its own."""
        if long:
            return self._turn.acquire(timeout=WAIT_S)
        with self._counting:
            self._waiting += 1
        try:
            return self._turn.acquire(timeout=WAIT_S)
        finally:
            with self._counting:
                self._waiting -= 1

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
            if not isinstance(error, Exception):
                raise
        else:
            self._end(ride, None)

    def _end(self, ride: _Ride, cause: BaseException | None) -> None:
        """The transaction is over. With a cause it is undone, and all in it hear of it. Idempotent."""
        if self._ride is not ride:
            return
        self._ride = None
        ride.cause = cause
        try:
            if cause is not None:
                undo(ride.connection)
            self._lend_no_longer(ride.connection)
        finally:
            ride.done.set()

    def _lend_no_longer(self, connection: Connection) -> None:
        try:
            self._give_back(connection)
        except Exception as error:
            if not is_fault(error):
                raise


class Seat:
    """One write in a convoy."""

    __slots__ = ("_convoy", "_long", "_ride", "_saved")

    def __init__(self, convoy: Convoy, long: bool) -> None:
        self._convoy = convoy
        self._long = long

    def __enter__(self) -> Connection:
        self._ride, self._saved = self._convoy.enter(self._long)
        return self._ride.connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._convoy.leave(self._ride, self._saved, self._long, error)
        if error is None:
            self._convoy.await_end(self._ride)
        elif is_fault(error):
            raise unavailable(error) from error
