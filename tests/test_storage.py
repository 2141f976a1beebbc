"""Trajectories survive the disk exactly, and any Parquet reader can read them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trpd_agents.errors import UserError
from trpd_agents.storage import read_trajectories, write_trajectories
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn

FLOATS = st.floats(width=32, allow_nan=True)
TEXTS = st.text(st.characters(), max_size=12)  # lone surrogates too: a model can write them
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS | st.floats(allow_nan=False)
CALLS = st.fixed_dictionaries({"name": TEXTS, "arguments": st.dictionaries(TEXTS, VALUES, max_size=2)})


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    turns, end = [], 0
    for _ in range(draw(st.integers(0, 3))):
        start = end + draw(st.integers(0, 4))
        stop = start + draw(st.integers(0, 4))
        turns.append(
            Turn(
                prompt=(end, start),
                action=(start, stop),
                author=draw(st.sampled_from(["student", "teacher"])),
                stop=draw(st.sampled_from(Stop)),
                observation=draw(TEXTS),
                text=draw(TEXTS),
                reward=draw(st.floats(allow_nan=False)),
                ok=draw(st.booleans()),
                calls=draw(st.lists(CALLS, max_size=2)),
            )
        )
        end = stop
    logprobs = np.array(draw(st.lists(FLOATS, min_size=end, max_size=end)), dtype=np.float32)
    failed = draw(st.booleans())
    trajectory = Trajectory(
        id=draw(st.integers(0, 2**62)),
        env_id=draw(st.sampled_from(["KeyChain-v0", "path/with ö/x.py:Env"])),
        env_kwargs=draw(st.dictionaries(TEXTS, VALUES, max_size=3)),
        seed=draw(st.integers(0, 2**62)),
        tokens=np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=end, max_size=end)), dtype=np.int32),
        logprobs=logprobs,
        turns=turns,
        outcome=Outcome.ERROR if failed else draw(st.sampled_from(Outcome)),
        success=None if failed else draw(st.booleans()),
        reward=draw(st.floats(allow_nan=False)),
        final_observation=draw(TEXTS),
        policy_version=draw(st.integers(0, 1000)),
        error={"kind": "step_raised", "message": draw(TEXTS)} if failed else None,
    )
    positions = trajectory.action_positions()
    if draw(st.booleans()):
        n, k = len(positions), draw(st.integers(0, 3))
        lt = np.array(draw(st.lists(FLOATS, min_size=n, max_size=n)), dtype=np.float32)
        top = None if k == 0 or n == 0 else np.arange(n * k, dtype=np.int32).reshape(n, k)
        trajectory.scores = Scores(positions, lt, top, None if top is None else -top.astype(np.float32) / 7)
        if draw(st.booleans()):
            trajectory.scores.entropy = np.array(draw(st.lists(FLOATS, min_size=n, max_size=n)), dtype=np.float32)
    return trajectory


def clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def check_same(found: Trajectory, wanted: Trajectory) -> None:
    """Equal, except that a lone surrogate in free text has become a question mark."""
    assert np.array_equal(found.tokens, wanted.tokens) and found.tokens.dtype == np.int32
    assert np.array_equal(found.logprobs, wanted.logprobs, equal_nan=True) and found.logprobs.dtype == np.float32
    for a, b in zip(found.turns, wanted.turns, strict=True):
        assert a == dataclasses.replace(b, observation=clean(b.observation), text=clean(b.text))
        assert isinstance(a.stop, Stop) and isinstance(a.prompt, tuple) and isinstance(a.action, tuple)
    for name in ("id", "env_id", "env_kwargs", "seed", "outcome", "success", "reward", "policy_version"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.final_observation == clean(wanted.final_observation)
    assert found.error == (wanted.error and {**wanted.error, "message": clean(wanted.error["message"])})
    assert (found.scores is None) == (wanted.scores is None)
    if found.scores is not None and wanted.scores is not None:
        for name in ("positions", "lt", "top_ids", "top_lt", "entropy"):
            a, b = getattr(found.scores, name), getattr(wanted.scores, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=name in ("lt", "top_lt", "entropy"))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(trajectories(), max_size=3))
def test_round_trip(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("stored") / "deeper" / "step.parquet"
    write_trajectories(path, wanted)
    found = read_trajectories(path)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        check_same(a, b)
    assert [file.name for file in path.parent.iterdir()] == ["step.parquet"]  # nothing half-written is left


def example() -> Trajectory:
    return Trajectory(
        id=3,
        env_id="KeyChain-v0",
        env_kwargs={"length": 2},
        seed=9,
        tokens=np.array([1, 2, 3], dtype=np.int32),
        logprobs=np.array([np.nan, -0.5, -1.5], dtype=np.float32),
        turns=[Turn((0, 1), (1, 3), "student", Stop.END, "hello", "go", calls=[{"name": "go", "arguments": {}}])],
        outcome=Outcome.TERMINATED,
        success=True,
        reward=1.0,
        scores=Scores(np.array([1, 2]), np.array([-1.0, -2.0], dtype=np.float32)),
    )


def test_any_parquet_reader_reads_it(tmp_path):
    write_trajectories(tmp_path / "a.parquet", [example()])
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert row["tokens"] == [1, 2, 3]
    assert row["turns"][0]["action"] == [1, 3]
    assert row["turns"][0]["text"] == "go"
    assert row["success"] is True
    assert row["error_kind"] is None
    assert row["scores"]["lt"] == [-1.0, -2.0]


def test_a_file_from_before_there_were_entropies_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    write_trajectories(path, [example()])
    table = pq.read_table(path)
    scores = table["scores"].combine_chunks()
    fields = [field for field in scores.type if field.name != "entropy"]
    older = pa.StructArray.from_arrays([scores.field(field.name) for field in fields], fields=fields)
    place = table.schema.get_field_index("scores")
    pq.write_table(table.set_column(place, "scores", older), path)
    (found,) = read_trajectories(path)
    check_same(found, example())


def test_a_successful_rewrite_replaces_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    write_trajectories(path, [example()])
    write_trajectories(path, [example(), example()])
    assert len(read_trajectories(path)) == 2


def test_a_file_that_is_not_parquet_is_the_users_mistake(tmp_path):
    path = tmp_path / "notes.parquet"
    path.write_text("hello")
    with pytest.raises(UserError, match="notes.parquet cannot be read as Parquet"):
        read_trajectories(path)
    with pytest.raises(UserError, match="nowhere.parquet cannot be read"):
        read_trajectories(tmp_path / "nowhere.parquet")


def test_a_truncated_file_is_the_users_mistake(tmp_path):
    path = tmp_path / "a.parquet"
    write_trajectories(path, [example()])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_trajectories(path)


def test_somebody_elses_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="other.parquet has trajectory format none; this version reads 1"):
        read_trajectories(tmp_path / "other.parquet")
