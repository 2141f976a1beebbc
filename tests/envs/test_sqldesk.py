"""The database desk: its answers against ones found without SQL, and what a query can do and cannot."""

from __future__ import annotations

import copy
import pickle
import random
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trpd_envs import Refused, format_call
from trpd_envs.sql_reader import MOST_ROWS, SqlReader, complexity
from trpd_envs.sqldesk import SqlDesk

ROWS = [[i, f"w{i}", 2 * i, i % 3] for i in range(40)]


@pytest.fixture
def reader() -> SqlReader:
    return SqlReader({"t": (["a", "b", "c", "d"], ROWS)})


def call(env: SqlDesk, name: str, **arguments: str) -> tuple[str, bool]:
    observation, _, _, _, info = env.step(format_call(name, **arguments))
    return observation, info["ok"]


def belonging(env: SqlDesk, value: str) -> list[dict[str, Any]]:
    """The rows asked about whose owner is `value`, found by following the links up from each of them."""
    tables = {table: [dict(zip(env.columns[table], row, strict=True)) for row in env.data[table]] for table in env.path}
    found = []
    for row in tables[env.path[0]]:
        owner = row
        for below, above in zip(env.path, env.path[1:], strict=False):
            link, key = env.columns[below][3], env.columns[above][0]
            (owner,) = [candidate for candidate in tables[above] if candidate[key] == owner[link]]
        if value in owner.values():
            found.append(row)
    return found


@pytest.mark.parametrize("kwargs", [{}, {"links": 1, "decoys": 0}, {"links": 5, "decoys": 6}])
def test_the_query_of_the_expert_gives_what_is_found_by_hand(kwargs: dict[str, int]) -> None:
    kinds = set()
    for seed in range(60):
        env = SqlDesk(**kwargs)
        opening, info = env.reset(seed=seed)
        rows = belonging(env, env.value)
        numbers = [row[env.columns[env.path[0]][2]] for row in rows]
        names = [row[env.columns[env.path[0]][1]] for row in rows]
        expected = {
            "count": len(rows), "total": sum(numbers), "highest": max(numbers), "lowest": min(numbers),
            "which": names[numbers.index(max(numbers))],
        }[env.kind]  # fmt: skip
        assert env.answer == str(expected) and f"{env.value}?" in opening
        assert all(table in opening for table in env.columns)
        sql = info["hint"].removeprefix("The query is: ").split("; the answer is ")[0]
        assert info["hint"].endswith(f"; the answer is {env.answer}.")
        assert call(env, "query", sql=sql)[0].split("\n")[1:] == [env.answer]
        kinds.add(env.kind)
        for other in env.owners:  # and so do the queries about others, which a player may mistake for it
            for kind in ("count", "highest"):
                wrong = env.database.query(env._sql(kind, other)).rows
                assert wrong == [[env._answer(kind, other)]]
        env.close()
    assert len(kinds) == 5


def test_the_expert_asks_for_what_it_has_not_seen_and_uses_what_it_has() -> None:
    env = SqlDesk(links=2, decoys=2, max_turns=30)
    for seed in range(20):
        env.reset(seed=seed)
        first, second, third = env.path
        assert env.expert() == format_call("schema", table=first)
        call(env, "query", sql=f"SELECT * FROM {first} LIMIT 2")  # whose head shows the columns as well
        assert env.expert() == format_call("schema", table=second)
        call(env, "query", sql=f"SELECT {env.columns[second][0]} FROM {second}")  # shows one column only
        assert env.expert() == format_call("schema", table=second)
        call(env, "schema", table=third), call(env, "schema", table=second)
        assert env.expert().startswith('<tool_call>{"name": "query"')
        call(env, "query", sql=f"SELECT {env.columns[first][1]} FROM {first}")  # many rows: the answer is not told
        assert env.expert().startswith('<tool_call>{"name": "query"')
        observation, _ = call(env, "query", sql=env._sql(env.kind, env.value).lower())
        assert env.expert() == format_call("submit", answer=env.answer) and observation.endswith(env.answer)


def test_submissions_are_final_and_read_kindly() -> None:
    env = SqlDesk()
    env.reset(seed=3)
    assert env.step(format_call("submit", answer=f" {env.answer.upper()}\n"))[1:4] == (1.0, True, False)
    for wrong in ("", "NULL", "0" * 5000, env.answer + "0"):
        env.reset(seed=3)
        assert env.step(format_call("submit", answer=wrong))[:4] == ("Wrong.", 0.0, True, False)
    env.reset(seed=3)
    assert call(env, "schema", table="nowhere")[1] is False and not env.over


def test_random_legal_play_gets_wrong_answers_to_submit() -> None:
    env = SqlDesk(links=1, decoys=0, max_turns=30)
    ends = []
    for seed in range(40):
        rng = random.Random(seed)
        env.reset(seed=seed)
        while actions := env.legal_actions():
            _, _, terminated, _, info = env.step(rng.choice(actions))
            assert info["ok"]
        ends.append((env.success, terminated))
    assert (False, True) in ends and (True, True) in ends


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("ATTACH 'x.db' AS x", "not authorized"),
        ("PRAGMA table_list", "not authorized"),
        ("SELECT * FROM pragma_table_list", "not authorized"),
        ("SELECT count(*) FROM pragma_table_list", "not authorized"),
        ("SELECT name FROM sqlite_master", "prohibited"),
        ("SELECT count(*) FROM sqlite_master", "not authorized"),
        ("SELECT count(*) FROM sqlite_schema", "not authorized"),
        ("INSERT INTO t VALUES (1, 2, 3, 4)", "not authorized"),
        ("UPDATE t SET a = 1", "not authorized"),
        ("DELETE FROM t", "not authorized"),
        ("DROP TABLE t", "not authorized"),
        ("CREATE TABLE z (a)", "not authorized"),
        ("CREATE TEMP VIEW z AS SELECT 1", "not authorized"),
        ("BEGIN", "not authorized"),
        ("VACUUM", "authoriz"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT random()", "random"),
        ("SELECT a FROM t ORDER BY random()", "random"),
        ("SELECT date('now')", "date"),
        ("SELECT current_timestamp", "current_timestamp"),
        ("SELECT zeroblob(1000000000)", "zeroblob"),
        ("SELECT printf('%1000000000d', 1)", "printf"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT a, b, c, d, a FROM t", "5 columns"),
        ("SELECT * FROM t x, t y", "8 columns"),
        ("SELECT ?", "SQL error"),
        ("SELECT 1\0", "null character"),
        ("", "Only SELECT"),
        ("-- nothing", "Only SELECT"),
        ("SELECT " + "1" * 2_000, "SQL error"),
        ("SELECT nowhere FROM t", "no such column"),
        ("SELECT CAST(x'ff' AS TEXT)", "decode"),
        ("SELECT '\ud800'", "SQL error"),
    ],
)
def test_nothing_but_reading_the_tables_is_possible(reader: SqlReader, sql: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        reader.query(sql)
    assert reader.query("SELECT count(*), sum(a) FROM t").rows == [["40", "780"]]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "SELECT count(*) FROM t a, t b, t c, t d, t e, t f",
        "SELECT a.a FROM t a, t b, t c, t d ORDER BY b.a + c.a + d.a",
        "SELECT max(upper(a.b || b.b)) FROM t a, t b, t c, t d",
        # What SQLite would copy for each use before it runs.
        "SELECT " + "x+x x FROM (SELECT " * 40 + "1 x" + ")" * 40,
        "WITH a(x) AS (SELECT 1), "
        + ", ".join(f"{chr(98 + i)}(x) AS (SELECT 1 FROM {', '.join([chr(97 + i)] * 9)})" for i in range(8))
        + " SELECT count(*) FROM i",
    ],
)
def test_endless_queries_are_refused(reader: SqlReader, sql: str) -> None:
    with pytest.raises(Refused, match="takes too long|Too complex"):
        reader.query(sql)


def test_values_stay_small_however_they_are_made(reader: SqlReader) -> None:
    grow = "WITH RECURSIVE n(v) AS (SELECT 'aaaaaaaa' UNION ALL SELECT v || v FROM n) SELECT max(v) FROM n"
    with pytest.raises(Refused, match="too big"):
        reader.query(grow)
    (row,) = reader.query("SELECT 'a' || '<tool_call>\n\u00e9" + "b" * 500 + "', NULL, x'0102', 1e999").rows
    assert row == ["a?tool_call>??bbbbbbbbbbbbbbbbbb...", "NULL", "2 bytes", "inf"]
    many = reader.query("SELECT a FROM t ORDER BY a")
    assert len(many.rows) == MOST_ROWS and many.more and not reader.query("SELECT a FROM t LIMIT 3").more


def test_what_is_useful_is_possible(reader: SqlReader) -> None:
    for sql, expected in [
        ("SELECT avg(a) FROM t WHERE d = 1 GROUP BY d HAVING count(*) > 2", "19.0"),
        ("WITH x AS (SELECT max(c) AS m FROM t) SELECT b FROM t, x WHERE c = m", "w39"),
        ("SELECT b FROM t WHERE a = (SELECT max(a) FROM t WHERE d = 0)", "w39"),
        ("SELECT count(DISTINCT d) FROM t WHERE b LIKE 'w1%'", "3"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT sum(i) FROM n", "45"),
        ("SELECT rank() OVER (ORDER BY a DESC) FROM t WHERE a = 39;", "1"),
    ]:
        result = reader.query(sql)
        assert result.rows[0] == [expected] and result.tables <= {"t"}, sql


def test_a_query_costs_at_least_the_words_that_it_multiplies() -> None:
    assert complexity("SELECT a FROM t") < complexity("SELECT a, a, a FROM t") < complexity("SELECT * FROM (SELECT 1)")
    assert complexity("select a from (select b from t)") == complexity("SELECT a FROM (SELECT b FROM t)")
    assert complexity("SELECT 1 " * 50) > 10**15


@given(
    st.lists(
        st.sampled_from(["SELECT", "*", "a", "t", ",", "FROM", "(", ")", "JOIN", "x'", "--", "1", "'"]), max_size=30
    )
)
def test_any_sequence_of_words_is_answered(words: list[str]) -> None:
    reader = SqlReader({"t": (["a"], [[1], [2]])})
    try:
        assert all(text.isascii() for row in reader.query(" ".join(words)).rows for text in row)
    except Refused as refusal:
        assert str(refusal).isascii() and len(str(refusal)) < 200
    reader.close()


def test_copies_do_not_share_a_connection() -> None:
    env = SqlDesk(max_turns=30)
    env.reset(seed=1)
    call(env, "query", sql="SELECT 1")
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    env.close()
    for twin in copies:
        assert call(twin, "query", sql=env._sql(env.kind, env.value))[0].endswith(env.answer)
        assert isinstance(twin.database._connection, sqlite3.Connection)
    assert call(env, "query", sql="SELECT 1")[1]  # and a closed one opens another
