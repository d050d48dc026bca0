"""What a database's faults are, and how they are told: `Unavailable`, without statement and parameters.

Owns telling them from bugs of ours, through the library or straight from the driver.
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from baremetal.errors import Unavailable
from baremetal.store.connection import Connection

WAIT_S = 30.0
# Faults that are ours, not the database's: they pass through as they are.
_BUGS = frozenset({"IntegrityError", "ProgrammingError", "DataError", "NotSupportedError"})


def undo(connection: Connection) -> None:
    """Roll back. Ending a transaction that is broken already may fail again, and would hide why."""
    try:
        connection.roll_back()
    except Exception as error:
        if not is_fault(error):
            raise


def busy() -> Unavailable:
    return Unavailable(f"the database was busy for {WAIT_S:.0f} s with another write of this process")


def is_fault(error: BaseException) -> bool:
    """Whether this comes from the database, through the library or straight from the driver, and is no bug of ours."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    ours = isinstance(error, SQLAlchemyError) or "Error" in kinds
    return ours and not kinds & _BUGS


def unavailable(error: BaseException) -> Unavailable:
    """Say what the database said, without statement and parameters."""
    if isinstance(error, SQLAlchemyError):
        seen = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
    else:
        seen = str(error)
    return Unavailable(
        "the database cannot be used just now",
        seen=seen.strip().splitlines()[0] if seen.strip() else None,
        fix="look at its disk and permissions; nothing was changed",
    )
