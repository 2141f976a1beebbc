"""An audit as tables, files and pictures.

Invariant: what is not defined is never a number: a dash with the reason in tables, null in JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trpd_agents import __version__
from trpd_agents.audit.masks import Judgement, mean
from trpd_agents.audit.plots import plot
from trpd_agents.audit.run import Audit
from trpd_agents.audit.signals import SIGNALS
from trpd_agents.evaluation.roc import Auroc
from trpd_agents.evaluation.statistics import Estimate
from trpd_agents.study.tables import markdown

NONE = "-"


@dataclass(frozen=True)
class Table:
    """`rows` share their keys, which are the heading."""

    title: str
    explanation: str
    rows: list[dict[str, str]]


def headline(audit: Audit) -> str:
    """Where the figures come from, and the overall shares, in two sentences."""
    turns = audit.turns
    failed = f" ({audit.failed} more failed for a fault of the environment)" if audit.failed else ""
    right = mean(turns.teacher_right[turns.on_track])
    return (
        f"{audit.config.env.id}: the student played {audit.episodes} episodes{failed}, seeds from {audit.first_seed}, "
        f"{len(turns)} turns, success {audit.success_rate:.3f}. A solution still existed at {mean(turns.on_track):.3f} "
        f"of the turns; there the teacher's preferred action was optimal at {_number(right)}, the student's at "
        f"{_number(mean(turns.student_right[turns.on_track]))}."
    )


def tables(audit: Audit) -> list[Table]:
    """Everything that was found, for people."""
    names = list(audit.methods)
    return [
        Table(
            "By turn",
            "On track: a solution still exists. Right: the preferred (teacher) or played (student) action is optimal, "
            "of the turns on track. tv: mean divergence.",
            [
                {
                    "turn": str(k),
                    "episodes": f"{row['episodes']:.0f}",
                    **{
                        heading: _number(row[key])
                        for heading, key in (
                            ("on track", "on_track"),
                            ("teacher right", "teacher_right"),
                            ("student right", "student_right"),
                            ("tv", "tv"),
                        )
                    },
                }
                for k, row in enumerate(audit.by_turn)
            ],
        ),
        Table(
            "Which figure tells that the teacher is wrong",
            "AUROC: how often a bad turn has the larger figure than a good one; 0.5 knows nothing. Wrong: of the turns "
            "with a solution, those at which the teacher's preferred action is not optimal. Bad: of all turns, those, "
            "and the ones at which the task is lost. Causal figures do not look at the turn itself. Intervals: 95 %, "
            "resampling episodes.",
            [
                {
                    "figure": name,
                    "causal": "yes" if SIGNALS[name].causal else "no",
                    "wrong, on track": _area(audit.predicts_wrong[name]),
                    "bad, all turns": _area(audit.predicts_bad[name]),
                    "what it is": SIGNALS[name].meaning,
                }
                for name in sorted(SIGNALS, key=lambda name: _rank(audit.predicts_bad[name]))
            ],
        ),
        Table(
            "What methods mask",
            "Shares of a turn's tokens without any weight, means over turns. Good: the teacher is right. Bad: it is "
            "wrong (wrong) or nothing is right any more (lost). Advantage: bad masked minus good masked; a mask that "
            "knows nothing has 0. Weight: mean weight, for methods that weigh and do not mask. Intervals: 95 %, "
            "resampling episodes.",
            [_method(name, judgement) for name, judgement in audit.methods.items()],
        ),
        Table(
            "What methods mask, by turn",
            "Good supervision masked / bad supervision masked.",
            [
                {
                    "turn": str(k),
                    **{
                        name: " / ".join(
                            _number(audit.methods[name].by_turn[k][key], 2) for key in ("good_masked", "bad_masked")
                        )
                        for name in names
                    },
                }
                for k in range(len(audit.by_turn))
            ],
        ),
    ]


def write_audit(audit: Audit, out: Path) -> list[str]:
    """Write `audit.json`, `audit.md`, `turns.parquet` and, where matplotlib is installed, `plots/`; the names of what
    was written."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "audit.json").write_text(json.dumps(summary(audit), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (out / "audit.md").write_text(as_markdown(audit), encoding="utf-8")
    pq.write_table(turn_table(audit), out / "turns.parquet", compression="zstd")
    written = ["audit.json", "audit.md", "turns.parquet"]
    if plot(audit, out / "plots"):
        written.append("plots/")
    return written


def as_markdown(audit: Audit) -> str:
    parts = [headline(audit)]
    for table in tables(audit):
        heading = list(table.rows[0])
        lines = [[row[name] for name in heading] for row in table.rows]
        parts.append(f"## {table.title}\n\n{table.explanation}\n\n{markdown(heading, lines)}")
    return "\n\n".join(parts) + "\n"


def summary(audit: Audit) -> dict[str, Any]:
    """`audit` as plain data, without the single turns."""
    turns = audit.turns
    return _plain(
        {
            "version": __version__,
            "config": audit.config.model_dump(mode="json"),
            "first_seed": audit.first_seed,
            "episodes": audit.episodes,
            "failed_episodes": audit.failed,
            "success_rate": audit.success_rate,
            "turns": len(turns),
            "on_track": mean(turns.on_track),
            "teacher_right": mean(turns.teacher_right[turns.on_track]),
            "student_right": mean(turns.student_right[turns.on_track]),
            "by_turn": audit.by_turn,
            "signals": {
                name: {
                    "causal": signal.causal,
                    "meaning": signal.meaning,
                    "wrong": _auroc_data(audit.predicts_wrong[name]),
                    "bad": _auroc_data(audit.predicts_bad[name]),
                }
                for name, signal in SIGNALS.items()
            },
            "methods": {name: vars(judgement) for name, judgement in audit.methods.items()},
        }
    )


def turn_table(audit: Audit) -> pa.Table:
    """One row per turn: where it is, the truth, the texts, and every signal (NaN where it has none)."""
    turns = audit.turns
    columns: dict[str, Any] = {
        "episode": turns.episode,
        "seed": turns.seed,
        "turn": turns.turn,
        "on_track": turns.on_track,
        "teacher_right": turns.teacher_right,
        "student_right": turns.student_right,
        **{name: values for name, values in audit.signals.items() if name != "turn"},
        "student_action": [_clean(text) for text in turns.student_action],
        "teacher_action": [_clean(text) for text in turns.teacher_action],
        "optimal": pa.array([list(texts) for texts in turns.optimal], pa.list_(pa.string())),
    }
    return pa.table(columns)


def _clean(text: str) -> str:
    """A model can write lone surrogates, which Parquet's UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _method(name: str, found: Judgement) -> dict[str, str]:
    return {
        "method": name,
        "kept": _number(found.kept),
        "good masked": _estimate(found.good_masked),
        "bad masked": _estimate(found.bad_masked),
        "wrong": _number(found.wrong_masked),
        "lost": _number(found.lost_masked),
        "advantage": _estimate(found.advantage, "+"),
        "weight: good": _number(found.good_weight),
        "bad": _number(found.bad_weight),
    }


def _rank(found: Auroc) -> float:
    """Greatest area first, undefined ones last."""
    return math.inf if math.isnan(found.estimate.mean) else -found.estimate.mean


def _area(found: Auroc) -> str:
    return f"{NONE} ({found.undefined})" if found.undefined else _estimate(found.estimate)


def _number(value: float, digits: int = 3, sign: str = "") -> str:
    return NONE if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _estimate(found: Estimate, sign: str = "") -> str:
    if math.isnan(found.mean):
        return NONE
    if math.isnan(found.low):
        return f"{found.mean:{sign}.3f} [too few episodes]"
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _auroc_data(found: Auroc) -> dict[str, Any]:
    data: dict[str, Any] = {"auroc": found.estimate, "turns": found.turns, "bad": found.bad}
    return data | ({"undefined": found.undefined} if found.undefined else {})


def _plain(value: Any) -> Any:
    """Estimates as mean and interval, what is not finite as None."""
    if isinstance(value, Estimate):
        return {"mean": _plain(value.mean), "interval": [_plain(value.low), _plain(value.high)]}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
