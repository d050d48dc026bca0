"""What stands inside a door of the database: its connection, and the statements that are compiled once for it.

Owns the two ways in which a statement is run: by the library, and past it by the database's driver, which costs a
fraction. Knows no lock, no fault, and neither when a transaction begins nor when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import sqlalchemy
from sqlalchemy import Dialect, Executable


class Connection:
    """A connection, both as the library sees it and as its driver does.

    The driver's own is looked up once, when this is made: the library takes two properties for it, and asks again each
    time whether it is still there.
    """

    __slots__ = ("_library", "dialect", "driver", "is_librarys", "is_open", "pool")

    def __init__(self, library: sqlalchemy.Connection) -> None:
        self._library = library
        self.dialect = library.dialect.name
        self.driver: Any = library.connection.driver_connection
        self.pool = library.engine.pool
        self.is_open = True
        self.is_librarys = False
        """Whether the library may have begun a transaction: it does so by itself, and must then end it itself."""

    @property
    def library(self) -> sqlalchemy.Connection:
        """The library's connection, to do with it whatever it can."""
        self.is_librarys = True
        return self._library

    def execute(self, statement: Executable, parameters: Any = None) -> Any:
        """Run a statement the library's way, and return its result."""
        return self.library.execute(statement, parameters)

    def compiler(self, paramstyle: str) -> Dialect:
        """Return a dialect of this kind of database, which compiles for the driver and holds no connection.

        Of the class that the library has loaded for the URL: another database's would cost its import.
        """
        kind: Callable[..., Dialect] = type(self._library.dialect)
        return kind(paramstyle=paramstyle)

    @property
    def is_usable(self) -> bool:
        """Whether the driver's connection is still the one that this was made with."""
        return self.is_open and not self._library.invalidated

    def commit(self) -> None:
        # A transaction of SQLite is begun past the library, which then knows of it only if it was used meanwhile.
        if self.is_librarys and self._library.in_transaction():
            self._library.commit()
            self.is_librarys = False
        else:
            self.driver.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo the transaction, if there is one: some faults end it by themselves."""
        if self.is_librarys and self._library.in_transaction():
            self._library.rollback()
            self.is_librarys = False
        elif self.is_open:
            self.driver.rollback()

    def close(self) -> None:
        """Give it back to the library. Idempotent."""
        self.is_open = False
        self._library.close()


class Prepared:
    """A Core statement, compiled once per kind of database and run by the driver itself.

    For the statements of the hot path: the library's own execution costs several times what the database does. Only
    for plain columns (texts and whole numbers), which the driver takes and gives as they are.
    """

    __slots__ = ("_compiled", "_statement", "_values")

    def __init__(self, statement: Any, values: Iterable[str] = ()) -> None:
        """`values`: the columns that an INSERT or UPDATE takes from its parameters."""
        self._statement = statement
        self._values = tuple(values)
        self._compiled: dict[str, tuple[str, Take]] = {}

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """Execute, and return the driver's cursor."""
        text, take = self._compiled.get(connection.dialect) or self._compile(connection)
        return connection.driver.execute(text, take(parameters))

    def _compile(self, connection: Connection) -> tuple[str, Take]:
        # by place, because SQLite's driver looks each name up anew whenever a statement runs
        compiled = self._statement.compile(
            dialect=connection.compiler("qmark" if connection.dialect == "sqlite" else "pyformat"),
            column_keys=self._values or None,
        )
        constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        names = compiled.positiontup
        made = str(compiled), _taker(constants, None if names is None else tuple(names))
        self._compiled[connection.dialect] = made
        return made


def _taker(constants: Mapping[str, Any], names: tuple[str, ...] | None) -> Take:
    """Return the function that makes what the driver takes: the values in the order of `names`, or all by name."""

    def whole(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**constants, **parameters} if constants else parameters

    if names is None:
        return whole
    if not names:
        return lambda _: ()
    if len(names) == 1:
        (only,) = names
        return lambda parameters: (whole(parameters)[only],)
    in_order = itemgetter(*names)
    return (lambda parameters: in_order(whole(parameters))) if constants else in_order


Take = Callable[[Mapping[str, Any]], Any]
