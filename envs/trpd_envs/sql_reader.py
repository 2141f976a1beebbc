"""One model-written SELECT at a time over a few small tables, in an in-memory SQLite.

Invariant: whatever the text, `query` returns or raises `Refused`, within milliseconds and a few megabytes; nothing but
the given tables is ever read, nothing is written, and the same query always has the same answer (no clock, no random
numbers). SQLite itself enforces it, by an authorizer, limits on sizes, and a count of its machine's steps.
"""

from __future__ import annotations

import math
import re
import sqlite3
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trpd_envs.base import Refused

MOST_ROWS = 8  # rows of a result that are shown
MOST_COLUMNS = 4  # columns that a result may have: one table's, not those of several at once
_STEPS = 200_000  # steps of SQLite's machine that a query may take: some milliseconds
_STEPS_AT_ONCE = 1_000
_SHOWN = 32  # characters of one value
_COMPLEXITY = 100_000

_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_500,
    sqlite3.SQLITE_LIMIT_LENGTH: 2_000,  # bytes of a value, however it is made; texts of SQL count as well
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 60,
    sqlite3.SQLITE_LIMIT_COLUMN: 40,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 8,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 40,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# Neither random nor aware of the time, and quick on long texts.
_FUNCTIONS = frozenset(
    "abs avg coalesce count dense_rank glob ifnull iif length like lower ltrim max min nullif rank round row_number "
    "rtrim sign substr substring sum total trim typeof upper".split()
)
_PLAIN = frozenset(string.printable) - set("<\t\n\r\v\f")
_WORD = re.compile(r"\w+")
_SELECT = re.compile(r"\bselect\b", re.IGNORECASE)


class Result(NamedTuple):
    """`rows` holds texts as they are shown; `more` says that there were others; `tables` are those read."""

    columns: list[str]
    rows: list[list[str]]
    more: bool
    tables: frozenset[str]


class SqlReader:
    """Answers queries over `tables`: by name, the columns and the rows of each.

    The connection is opened by the first query and is no part of a pickle or a copy.
    """

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]):
        self.tables = tables
        self._connection: sqlite3.Connection | None = None
        self._read: set[str] = set()
        self._steps = 0

    def query(self, sql: str) -> Result:
        """The first rows of what `sql` selects. Raises `Refused` with a reason that is safe to show."""
        if complexity(sql) > _COMPLEXITY:
            raise Refused("Too complex a query: use fewer or shorter SELECTs.")
        if self._connection is None:
            self._connection = self._connect()
        self._read.clear()
        self._steps = 0
        try:
            cursor = self._connection.execute(sql)
            try:
                if cursor.description is None:
                    raise Refused("Only SELECT is possible.")
                if len(cursor.description) > MOST_COLUMNS:
                    raise Refused(f"{len(cursor.description)} columns; at most {MOST_COLUMNS} are shown.")
                found = cursor.fetchmany(MOST_ROWS + 1)
                columns = [plain(str(column[0])) for column in cursor.description]
            finally:
                cursor.close()
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            if "interrupted" in str(error):
                raise Refused("The query takes too long.") from None
            raise Refused(f"SQL error: {plain(str(error), 100).rstrip('.')}.") from None
        rows = [[_show(value) for value in row] for row in found[:MOST_ROWS]]
        return Result(columns, rows, len(found) > MOST_ROWS, frozenset(self._read))

    def close(self) -> None:
        """Free the connection; the next query opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}

    def __del__(self) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=0)
        for name, (columns, rows) in self.tables.items():
            connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            places = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {name} VALUES ({places})", rows)
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_authorizer(self._authorise)
        connection.set_progress_handler(self._count, _STEPS_AT_ONCE)
        return connection

    def _authorise(self, action: int, first: str | None, second: str | None, _database: Any, _trigger: Any) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first is not None:
            if first in self.tables:
                self._read.add(first)
                return sqlite3.SQLITE_OK
            if not second and not first.startswith("sqlite_"):
                return sqlite3.SQLITE_OK  # no column of it: the rows of a WITH are counted
        if action == sqlite3.SQLITE_FUNCTION and second is not None and second.lower() in _FUNCTIONS:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _count(self) -> bool:
        self._steps += _STEPS_AT_ONCE
        return self._steps > _STEPS


def complexity(sql: str) -> int:
    """A bound on what SQLite may build from a query before it runs, where nothing counts its steps.

    A part of a query that is used twice, as WITH and a nested SELECT are, may be copied for each use, and so on at
    every level. A use takes a word, so the product of the words in each SELECT is the bound; a star stands for many.
    """
    return math.prod(len(_WORD.findall(part)) + 10 * part.count("*") + 1 for part in _SELECT.split(sql))


def plain(text: str, length: int = _SHOWN) -> str:
    """`text` for an observation: one short line of printable ASCII that cannot form a special token."""
    shown = "".join(character if character in _PLAIN else "?" for character in text[:length])
    return shown if len(text) <= length else shown + "..."


def _show(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return plain(str(value))
