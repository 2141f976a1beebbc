"""SqlDesk: answer a question about a database whose tables have to be looked at before they can be joined.

Rules: the first observation names the tables and asks about the rows of one that belong, over `links` tables, to a row
of another. `schema` shows the columns of one table; those that link tables are named after the table they lead to.
`query` runs one SELECT of SQLite, on all tables, and shows up to 8 rows of up to 4 columns; nothing can be written, and
what takes too long or is too large is refused. `submit` is final.
Success: the right answer is submitted; any other submission ends the episode as a failure. Horizon: the columns of
`links + 1` tables, one query and one submission.
What is hard: the columns have other names in every episode, `decoys` tables lead elsewhere, and a query that leaves out
a join or a condition gives an answer that looks as good.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any, Literal

from trpd_envs.base import check_int
from trpd_envs.keychain import WORDS
from trpd_envs.sql_reader import SqlReader
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

# What a table may hold: one, several, and what is counted of each.
THINGS = (
    ("song", "songs", "seconds"), ("club", "clubs", "fee"), ("farm", "farms", "acres"), ("train", "trains", "speed"),
    ("boat", "boats", "length"), ("port", "ports", "depth"), ("team", "teams", "score"), ("shop", "shops", "rent"),
    ("clerk", "clerks", "age"), ("bridge", "bridges", "width"), ("box", "boxes", "weight"), ("mast", "masts", "height"),
)  # fmt: skip
_ID_COLUMNS = ("id", "code", "nr", "num")
_NAME_COLUMNS = ("name", "label", "title", "tag")
_LINKS = ("{}_id", "{}_code", "of_{}", "in_{}")
_MOST_SUBMISSIONS = 20

_Kind = Literal["count", "total", "highest", "lowest", "which"]
_KINDS: tuple[_Kind, ...] = ("count", "total", "highest", "lowest", "which")
_AGGREGATES = {"count": "COUNT(*)", "total": "SUM(a.{})", "highest": "MAX(a.{})", "lowest": "MIN(a.{})"}


class SqlDesk(ToolEnv):
    """See the module's docstring.

    Knobs: `links` joins from 1 to 5, `decoys` other tables from 0 to 6, `rows` of each table from 4 to 40, `max_turns`
    at least `links + 3` (twice that by default).
    """

    instructions = (
        "Answer the question about the database, then submit the answer. Tables: look up the columns first, then "
        "query with one SELECT of SQLite. Call one tool each turn."
    )
    in_process = True

    def __init__(self, links: int = 2, decoys: int = 2, rows: int = 8, max_turns: int | None = None):
        self.links = check_int("links", links, 1, 5)
        self.decoys = check_int("decoys", decoys, 0, 6)
        self.n_rows = check_int("rows", rows, 4, 40)
        super().__init__(2 * (links + 3) if max_turns is None else check_int("max_turns", max_turns, links + 3))

    def start(self) -> str:
        rng = self.python_random()
        self._draw(rng)
        self.kind: _Kind = rng.choice(_KINDS)
        self.value = rng.choice(self.owners)  # of some row, so that there is an answer
        self.answer = self._answer(self.kind, self.value)
        self.known: set[str] = set()  # tables whose columns were shown
        self.shown: dict[str, None] = {}  # values that were the answer to some query, in order
        tables = ", ".join(sorted(self.columns))
        return f"Tables: {tables}. {self._question()}"

    def hint(self) -> str:
        return f"The query is: {self._sql(self.kind, self.value)}; the answer is {self.answer}."

    @tool
    def schema(self, table: str) -> str:
        """The columns of a table."""
        if table not in self.columns:
            raise ToolError(f"No such table. Tables: {', '.join(sorted(self.columns))}.")
        self.known.add(table)
        return f"{table}: {', '.join(self.columns[table])}."

    @tool
    def query(self, sql: str) -> str:
        """Run one SELECT; the answer shows its first rows."""
        result = self.database.query(sql)
        # A table's columns are known as well from the head of an answer that has all of them.
        self.known |= {table for table in result.tables if set(self.columns[table]) <= set(result.columns)}
        if len(result.rows) == 1:
            self.shown.update((value, None) for value in result.rows[0] if value != "NULL")
        lines = [", ".join(result.columns), *(", ".join(row) for row in result.rows)]
        return "\n".join([*lines, *(["more rows"] if result.more else []), *([] if result.rows else ["no rows"])])

    @tool
    def submit(self, answer: str) -> str:
        """Submit the answer, a number or a name; this ends the task."""
        success = answer.strip().casefold() == self.answer.casefold() if len(answer) < 100 else False
        self.finish(success)
        return "Right." if success else "Wrong."

    def close(self) -> None:
        if hasattr(self, "database"):
            self.database.close()

    def expert(self) -> str | None:
        """The next table on the way, the query, or the submission; None when the turns do not suffice or it is over."""
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """Looking at any table on the way that is not known yet, by either tool; then the query; then the answer."""
        if self.over:
            return []
        unknown = [table for table in self.path if table not in self.known]
        answered = self.answer in self.shown
        if (1 if answered else len(unknown) + 2) > self.turns_left:
            return []
        if answered:
            return [format_call("submit", answer=self.answer)]
        if unknown:
            return [call for table in unknown for call in _look(table)]
        return [format_call("query", sql=self._sql(self.kind, self.value))]

    def legal_actions(self) -> list[str]:
        """Looking at each table; once those on the way are known, the right query and some that differ from it in one
        thing; submitting what was the answer to a query."""
        if self.over:
            return []
        looking = [call for table in sorted(self.columns) for call in _look(table)]
        asking = []
        if self.known.issuperset(self.path):
            others = [(kind, self.value) for kind in _KINDS if kind != self.kind]
            others += [(self.kind, name) for name in dict.fromkeys(self.owners) if name != self.value]
            wrong = [self._sql(*other) for other in others[:8] if self._answer(*other) != self.answer]
            asking = [format_call("query", sql=sql) for sql in (self._sql(self.kind, self.value), *wrong)]
        told = list(self.shown)[-_MOST_SUBMISSIONS:]
        if self.answer in self.shown and self.answer not in told:
            told.append(self.answer)
        return [*looking, *asking, *(format_call("submit", answer=value) for value in told)]

    def _draw(self, rng: Random) -> None:
        """Tables in a random tree: the way from the table asked about (first) to the one it belongs to (last), and
        decoys that lead to any table."""
        things = rng.sample(THINGS, self.links + 1 + self.decoys)
        self.things = {plural: (one, unit) for one, plural, unit in things}
        tables = list(self.things)
        self.path = tables[: self.links + 1]
        owners = dict(pairwise(self.path))
        for i, decoy in enumerate(tables[self.links + 1 :], self.links + 1):
            owners[decoy] = rng.choice(tables[:i])
        self.columns: dict[str, list[str]] = {}
        self.data: dict[str, list[list[Any]]] = {}
        ids = {table: rng.sample(range(10, 100), self.n_rows) for table in tables}
        for table in tables:
            numbers = rng.sample(range(1, 100), self.n_rows)  # no two alike: "the highest" is one
            names = rng.sample(WORDS, self.n_rows)
            self.columns[table] = [rng.choice(_ID_COLUMNS), rng.choice(_NAME_COLUMNS), self.things[table][1]]
            self.data[table] = [list(row) for row in zip(ids[table], names, numbers, strict=True)]
            if table in owners:
                self.columns[table].append(rng.choice(_LINKS).format(self.things[owners[table]][0]))
                for row in self.data[table]:
                    row.append(rng.choice(ids[owners[table]]))
        self.owners = self._owners()
        self.close()
        self.database = SqlReader({table: (self.columns[table], self.data[table]) for table in tables})

    def _question(self) -> str:
        one, unit = self.things[self.path[0]]
        owner = f"the {self.things[self.path[-1]][0]} {self.value}"
        rows = f"{self.path[0]} that belong to {owner}"
        if self.kind == "count":
            return f"Question: how many {rows}?"
        if self.kind == "which":
            return f"Question: which {one} has the highest {unit} of the {rows}?"
        return f"Question: what is the {self.kind} {unit} of the {rows}?"

    def _owners(self) -> list[str]:
        """For each row of the table asked about, the name of the row it belongs to at the end of the way."""
        owners = [row[0] for row in self.data[self.path[0]]]
        for table in self.path:
            rows = {row[0]: row for row in self.data[table]}
            owners = [rows[owner][-1 if table != self.path[-1] else 1] for owner in owners]
        return owners

    def _answer(self, kind: _Kind, value: str) -> str:
        """What the query of this kind about `value` gives, without SQL."""
        found = [row for row, name in zip(self.data[self.path[0]], self.owners, strict=True) if name == value]
        if kind == "count":
            return str(len(found))
        if kind == "which":
            return str(max(found, key=lambda row: row[2])[1])
        numbers = [int(row[2]) for row in found]
        return str({"total": sum(numbers), "highest": max(numbers), "lowest": min(numbers)}[kind])

    def _sql(self, kind: _Kind, value: str) -> str:
        """The query of this kind about `value`, over the whole way."""
        short = dict(zip(self.path, "abcdef", strict=False))
        _, name, unit = self.columns[self.path[0]][:3]
        what = f"a.{name}" if kind == "which" else _AGGREGATES[kind].format(unit)
        joined = f"{self.path[0]} a"
        for table, owner in pairwise(self.path):
            link, key = f"{short[table]}.{self.columns[table][3]}", f"{short[owner]}.{self.columns[owner][0]}"
            joined += f" JOIN {owner} {short[owner]} ON {link} = {key}"
        last = self.path[-1]
        order = f" ORDER BY a.{unit} DESC LIMIT 1" if kind == "which" else ""
        return f"SELECT {what} FROM {joined} WHERE {short[last]}.{self.columns[last][1]} = '{value}'{order}"


def _look(table: str) -> list[str]:
    """The two ways of seeing a table's columns."""
    return [format_call("schema", table=table), format_call("query", sql=f"SELECT * FROM {table} LIMIT 3")]
