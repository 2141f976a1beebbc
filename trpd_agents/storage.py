"""Trajectories on disk: Parquet, one row per trajectory, readable with any Parquet reader.

Token-level columns are lists aligned with `tokens`, turns are a list of structs, and free-form values (environment
arguments, tool calls) are JSON text. A teacher's scores are stored at their explicit positions; its hidden states are
not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trpd_agents.atomic import put_in_place
from trpd_agents.errors import UserError
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn

FORMAT = "1"

_TURN = pa.struct(
    [
        ("prompt", pa.list_(pa.int32(), 2)),
        ("action", pa.list_(pa.int32(), 2)),
        ("author", pa.string()),
        ("stop", pa.string()),
        ("observation", pa.string()),
        ("text", pa.string()),
        ("reward", pa.float64()),
        ("ok", pa.bool_()),
        ("calls", pa.string()),
    ]
)
_SCORES = pa.struct(
    [
        ("positions", pa.list_(pa.int32())),
        ("lt", pa.list_(pa.float32())),
        ("top_ids", pa.list_(pa.list_(pa.int32()))),
        ("top_lt", pa.list_(pa.list_(pa.float32()))),
        ("entropy", pa.list_(pa.float32())),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("env_id", pa.string()),
        ("env_kwargs", pa.string()),
        ("seed", pa.int64()),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("turns", pa.list_(_TURN)),
        ("outcome", pa.string()),
        ("success", pa.bool_()),
        ("reward", pa.float64()),
        ("final_observation", pa.string()),
        ("policy_version", pa.int64()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("scores", _SCORES),
        ("instructions", pa.string()),
        ("tools", pa.string()),
        ("hint", pa.string()),
        ("draw", pa.bool_()),
    ],
    metadata={"trpd_agents.format": FORMAT},
)


def write_trajectories(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write a Parquet file; it appears under `path` only when it is complete."""
    table = pa.Table.from_pylist([_row(t) for t in trajectories], schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, half, compression="zstd")
        put_in_place(half, path)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read what `write_trajectories` wrote.

    Raises:
        UserError: not such a file, or written by a newer version.
    """
    return list(stream_trajectories(path))


def stream_trajectories(path: Path, at_once: int = 64) -> Iterator[Trajectory]:
    """As `read_trajectories`, with `at_once` trajectories in memory at a time; what it raises can come late."""
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(b"trpd_agents.format", b"none").decode()
            if version != FORMAT:
                raise UserError(f"{path} has trajectory format {version}; this version reads {FORMAT}")
            for batch in file.iter_batches(at_once):
                for row in _rows(batch):
                    yield _trajectory(row)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error


def _clean(text: str) -> str:
    """A model can write lone surrogates, which Parquet's UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _row(t: Trajectory) -> dict[str, Any]:
    return {
        "id": t.id,
        "env_id": t.env_id,
        "env_kwargs": json.dumps(t.env_kwargs, default=str),
        "seed": t.seed,
        "tokens": t.tokens,
        "logprobs": t.logprobs,
        "turns": [
            {
                "prompt": list(turn.prompt),
                "action": list(turn.action),
                "author": turn.author,
                "stop": str(turn.stop),
                "observation": _clean(turn.observation),
                "text": _clean(turn.text),
                "reward": turn.reward,
                "ok": turn.ok,
                "calls": json.dumps(turn.calls),
            }
            for turn in t.turns
        ],
        "outcome": str(t.outcome),
        "success": t.success,
        "reward": t.reward,
        "final_observation": _clean(t.final_observation),
        "policy_version": t.policy_version,
        "error_kind": t.error["kind"] if t.error else None,
        "error_message": _clean(t.error["message"]) if t.error else None,
        "scores": None
        if t.scores is None
        else {
            "positions": t.scores.positions,
            "lt": t.scores.lt,
            "top_ids": None if t.scores.top_ids is None else t.scores.top_ids.tolist(),
            "top_lt": None if t.scores.top_lt is None else t.scores.top_lt.tolist(),
            "entropy": t.scores.entropy,
        },
        "instructions": _clean(t.instructions),
        "tools": json.dumps(t.tools),
        "hint": None if t.hint is None else _clean(t.hint),
        "draw": t.draw,
    }


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """As `to_pylist` gives them, but lists of numbers as arrays: a Python object for each number would cost most of the
    time."""
    scores = batch.column("scores")
    stored = scores.is_valid().to_pylist()
    parts = {field.name: _arrays(part) for field, part in zip(scores.type, scores.flatten(), strict=True)}
    tokens, logprobs = _arrays(batch.column("tokens")), _arrays(batch.column("logprobs"))
    for i, row in enumerate(batch.drop_columns(["tokens", "logprobs", "scores"]).to_pylist()):
        row |= {"tokens": tokens[i], "logprobs": logprobs[i]}
        yield row | {"scores": {name: values[i] for name, values in parts.items()} if stored[i] else None}


def _empty(values: np.ndarray | None) -> bool:
    return values is None or not len(values)


def _arrays(lists: pa.ListArray) -> list[np.ndarray | None]:
    """Each list of numbers as an array, each list of equally long lists as a matrix; None for null."""
    inner = lists.values
    nested = pa.types.is_list(inner.type)
    numbers = (inner.values if nested else inner).to_numpy(zero_copy_only=False)
    ends = inner.offsets.to_numpy() if nested else None
    found: list[np.ndarray | None] = []
    offsets = lists.offsets.to_numpy()
    for start, end, valid in zip(offsets, offsets[1:], lists.is_valid().to_pylist(), strict=False):
        if not valid:
            found.append(None)
        elif ends is None:
            found.append(numbers[start:end])
        else:
            found.append(numbers[ends[start] : ends[end]].reshape(end - start, -1) if end > start else numbers[:0])
    return found


def _trajectory(row: dict[str, Any]) -> Trajectory:
    turns = [
        Turn(
            prompt=tuple(turn["prompt"]),
            action=tuple(turn["action"]),
            author=turn["author"],
            stop=Stop(turn["stop"]),
            observation=turn["observation"],
            text=turn["text"],
            reward=turn["reward"],
            ok=turn["ok"],
            calls=json.loads(turn["calls"]),
        )
        for turn in row["turns"]
    ]
    stored = row["scores"]
    scores = None
    if stored is not None:
        scores = Scores(
            positions=np.array(stored["positions"], dtype=np.int64),
            lt=np.array(stored["lt"], dtype=np.float32),
            # without any position the number of top tokens is not on disk, and nothing depends on it
            top_ids=None if _empty(stored["top_ids"]) else np.array(stored["top_ids"], dtype=np.int32),
            top_lt=None if _empty(stored["top_lt"]) else np.array(stored["top_lt"], dtype=np.float32),
            # a file from before there were entropies does not have the column
            entropy=None if stored.get("entropy") is None else np.array(stored["entropy"], dtype=np.float32),
        )
    error = None if row["error_kind"] is None else {"kind": row["error_kind"], "message": row["error_message"]}
    return Trajectory(
        id=row["id"],
        env_id=row["env_id"],
        env_kwargs=json.loads(row["env_kwargs"]),
        seed=row["seed"],
        tokens=np.array(row["tokens"], dtype=np.int32),
        logprobs=np.array(row["logprobs"], dtype=np.float32),
        turns=turns,
        outcome=Outcome(row["outcome"]),
        success=row["success"],
        reward=row["reward"],
        final_observation=row["final_observation"],
        policy_version=row["policy_version"],
        error=error,
        scores=scores,
        # a file from before these were kept does not have the columns
        instructions=row.get("instructions") or "",
        tools=json.loads(row.get("tools") or "[]"),
        hint=row.get("hint"),
        draw=row.get("draw"),
    )
