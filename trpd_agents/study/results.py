"""What a study found, as rows: one for each member, and one for each point of each curve.

A member that has not finished has its row too, with `status` and `error` and nothing else: what is missing is seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trpd_agents.study.plan import Member, Plan
from trpd_agents.study.store import StudyDirectory
from trpd_agents.study.work import write_json

Row = dict[str, Any]

_KEYS = {"environment": pa.string(), "teacher": pa.string(), "method": pa.string(), "seed": pa.int64()}
RESULTS = pa.schema(
    {
        "role": pa.string(),  # "study", or "selection" for the choice of a learning rate
        **_KEYS,
        "status": pa.string(),  # "done", "failed" or "not run"
        "error": pa.string(),
        "learning_rate": pa.float64(),
        "success_before": pa.float64(),
        "success_after": pa.float64(),
        "success_teacher": pa.float64(),
        "evaluation_episodes": pa.int64(),
        "updates": pa.int64(),
        "environment_steps": pa.int64(),
        "tokens": pa.int64(),  # sampled in training, by student and teacher
        "seconds": pa.float64(),  # wall time of the member, evaluations included, models not
        "kept_share": pa.float64(),  # of the student's tokens, over the whole run
        "outcomes": pa.string(),  # file with the outcome of every evaluation episode, in the study's directory
        "version": pa.string(),
        "config": pa.string(),  # short hash of the run's whole configuration
        "settings": pa.string(),  # likewise of what should be the same for all seeds of a row in the tables
    }
)
CURVES = pa.schema(
    {
        **_KEYS,
        "figure": pa.string(),
        "environment_steps": pa.int64(),
        "turn": pa.int64(),  # of figures by turn index, else null
        "value": pa.float64(),
        "low": pa.float64(),  # 95 % interval over evaluation episodes, of success only
        "high": pa.float64(),
    }
)
STEP_FIGURES = ("kept_share", "grad_norm", "reverse_kl", "kl", "turn_divergence", "outside_share", "success")
TURN_FIGURES = {"divergence_by_turn": "divergence", "kept_share_by_turn": "kept_share"}


def member_rows(plan: Plan, directory: StudyDirectory) -> list[Row]:
    """A row for each member of the plan, in its order."""
    failures = directory.failures()
    return [_member_row(member, directory, failures) for member in plan.members]


def _member_row(member: Member, directory: StudyDirectory, failures: dict[str, str]) -> Row:
    row: Row = dict.fromkeys(RESULTS.names)
    row |= {
        "role": "study" if member.rate is None else "selection",
        "environment": member.environment,
        "teacher": member.teacher,
        "method": member.method,
        "seed": member.seed,
    }
    if not directory.finished(member):
        other = "finished with other settings than the study file has now" if directory.stale(member) else None
        error = failures.get(member.name, other)
        return row | {"status": "failed" if error else "not run", "error": error, "learning_rate": member.rate}
    told = directory.told(member) or {}
    evaluations, lines = directory.evaluations(member), directory.metrics(member)
    after = evaluations["after"]
    return row | {
        "status": "done",
        "learning_rate": told["learning_rate"],
        "success_before": _model(member, "student", directory).get("success_rate"),
        "success_after": after["success_rate"],
        "success_teacher": _model(member, "teacher", directory).get("success_rate"),
        "evaluation_episodes": after["episodes"],
        "updates": len(lines),
        "environment_steps": lines[-1]["environment_steps"],
        "tokens": told["tokens"].get("rollout", 0),
        "seconds": told["wall_seconds"],
        "kept_share": _plain(directory.kept_share(member)),
        "outcomes": str(member.folder / "evaluations.json"),
        "version": told["version"],
        "config": told["config"],
        "settings": told["settings"],
    }


def curve_rows(plan: Plan, directory: StudyDirectory) -> Iterator[Row]:
    """Every point of every curve of the study's finished members, the choice of learning rates left out."""
    for member in plan.members:
        if member.rate is None and directory.finished(member):
            yield from _curves(member, directory)


def _curves(member: Member, directory: StudyDirectory) -> Iterator[Row]:
    row = dict.fromkeys(CURVES.names) | {key: getattr(member, key) for key in _KEYS}
    evaluations = list(directory.evaluations(member).values())
    if before := _model(member, "student", directory):
        evaluations.insert(0, {**before, "environment_steps": 0})
    for found in sorted(evaluations, key=lambda entry: entry["environment_steps"]):
        low, high = found["interval"]
        at = {"figure": "evaluated_success", "environment_steps": found["environment_steps"]}
        yield row | at | {"value": found["success_rate"], "low": low, "high": high}
    for line in directory.metrics(member):
        at = {"environment_steps": line["environment_steps"]}
        for figure in STEP_FIGURES:
            if (value := _plain(line.get(figure))) is not None:
                yield row | at | {"figure": figure, "value": value}
        for source, figure in TURN_FIGURES.items():
            for turn, entry in enumerate(line[source]):
                if (value := _plain(entry)) is not None:
                    yield row | at | {"figure": figure, "turn": turn, "value": value}


def _model(member: Member, who: str, directory: StudyDirectory) -> dict[str, Any]:
    """The evaluation of a member's start or teacher; empty if it is gone."""
    return directory.model(member.models[who]) or {}


def write_rows(members: list[Row], curves: list[Row], directory: StudyDirectory) -> None:
    path = directory.path
    write_json(path / "results.json", members)
    pq.write_table(pa.Table.from_pylist(members, RESULTS), path / "results.parquet")
    pq.write_table(pa.Table.from_pylist(curves, CURVES), path / "curves.parquet")


def outcomes(row: Row, directory: StudyDirectory) -> dict[int, list[bool]]:
    """Success of every evaluation episode of a finished member, by the episode's environment seed."""
    found = json.loads((directory.path / row["outcomes"]).read_text(encoding="utf-8"))
    return {int(seed): flags for seed, flags in found["after"]["outcomes"].items()}


def _plain(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
