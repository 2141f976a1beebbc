"""A run in figures, for curves and tables: from its metrics, its evaluations and, in one passage, its stored episodes.

Invariant: every figure says over what it is; what is not known is None and never 0. Rates come with 95 % intervals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trpd_agents.credit import DESCRIPTIONS, Reason
from trpd_agents.evaluation.statistics import Estimate, compare, success_rate, wilson_interval
from trpd_agents.report.episodes import EpisodeSeen
from trpd_agents.report.files import RunFiles
from trpd_agents.report.text import one_line

POINTS = 60
"""Points of a curve: success is pooled over as many equal stretches of updates, for an interval that says something."""

GROUPS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 1 << 30))
"""Turn indices that share a line, so that an episode of 64 turns still makes a readable chart."""

_LOG_RATIO_EDGES = (-math.inf, -4.0, -2.0, -1.0, -0.25, 0.25, 1.0, 2.0, 4.0, math.inf)


@dataclass
class StepSums:
    """Sums over the stored episodes of one update."""

    episodes: int = 0
    reasons: Counter[int] = field(default_factory=Counter)
    surprisal: float = 0.0  # nats, of the student's own tokens
    teacher_entropy: float = 0.0
    with_entropy: int = 0
    tokens: int = 0
    end: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum of log ratios at end tokens, and how many
    inner: list[float] = field(default_factory=lambda: [0.0, 0.0])  # the same at all other tokens
    outcomes: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    log_ratio: np.ndarray = field(default_factory=lambda: np.zeros(len(_LOG_RATIO_EDGES) - 1, dtype=int))


class Sums:
    """What the stored episodes add to the metrics, by update; `add` each of them once."""

    def __init__(self) -> None:
        self.by_step: dict[int, StepSums] = {}

    def add(self, seen: EpisodeSeen) -> None:
        sums = self.by_step.setdefault(seen.step, StepSums())
        t, tokens = seen.trajectory, seen.tokens
        sums.episodes += 1
        sums.outcomes[str(t.outcome)] += 1
        sums.stops.update(str(turn.stop) for turn in t.turns)
        if t.error is not None:
            sums.errors[one_line(t.error["kind"], 60)] += 1
        if tokens.reason is not None:
            codes, counts = np.unique(tokens.reason, return_counts=True)
            sums.reasons.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        own = np.isfinite(tokens.ls)
        sums.surprisal -= float(tokens.ls[own].sum(dtype=np.float64))
        sums.tokens += int(own.sum())
        if tokens.entropy is not None:
            known = own & np.isfinite(tokens.entropy)
            sums.teacher_entropy += float(tokens.entropy[known].sum(dtype=np.float64))
            sums.with_entropy += int(known.sum())
        scored = own & np.isfinite(tokens.lt)
        d = tokens.lt - tokens.ls
        last = np.zeros(len(own), dtype=bool)
        ends = [
            turn.span.stop - 1 for turn in seen.turns if turn.played.stop == "end" and turn.span.stop > turn.span.start
        ]
        last[ends] = True
        for where, totals in ((scored & last, sums.end), (scored & ~last, sums.inner)):
            totals[0] += float(d[where].sum(dtype=np.float64))
            totals[1] += int(where.sum())
        sums.log_ratio += np.histogram(d[scored], bins=np.array(_LOG_RATIO_EDGES))[0]

    def entropy(self) -> dict[int, float | None]:
        """Nats per token, by update: the student's mean surprisal at its own samples, which estimates its entropy."""
        return {step: _per(sums.surprisal, sums.tokens) for step, sums in self.by_step.items()}

    def counts(self, name: str) -> dict[str, int]:
        """Totals of `outcomes`, `stops` or `errors` over all stored episodes."""
        total: Counter[str] = Counter()
        for sums in self.by_step.values():
            total.update(getattr(sums, name))
        return dict(total.most_common())


def curves(run: RunFiles, sums: Sums) -> dict[str, Any]:
    """Everything that the run page draws, by update; lists are aligned with `x` of their chart."""
    rows = run.metrics
    x = [row["step"] for row in rows]

    def column(name: str) -> list[float | None]:
        return [_finite(row.get(name)) for row in rows]

    entropy = sums.entropy()
    stored = list(entropy)
    charts = {
        "success": _success(run),
        "kl": {"x": x, "series": {"KL": column("kl")}},
        "kept": {
            "x": x,
            "series": {"kept": column("kept_share"), "outside the region": column("outside_share")},
            "share": True,
        },
        "grad": {"x": x, "series": {"gradient norm": column("grad_norm")}},
        "entropy": {
            "x": stored,
            "series": {
                "student": list(entropy.values()),
                "teacher": [_per(s.teacher_entropy, s.with_entropy) for s in sums.by_step.values()],
            },
        },
        "length": {
            "x": x,
            "series": {
                "turns per episode": column("turns"),
                "tokens per action": [
                    _per(row.get("action_tokens", 0), row.get("turns", 0) * row.get("episodes", 0)) for row in rows
                ],
            },
        },
        "divergence_by_turn": _by_turn(rows, "divergence_by_turn", "counted_by_turn"),
        "kept_by_turn": _by_turn(rows, "kept_share_by_turn", "action_tokens_by_turn") | {"share": True},
        "reasons": _reasons(sums),
    }
    return {name: chart for name, chart in charts.items() if _drawable(chart)}


def results(run: RunFiles) -> list[dict[str, Any]]:
    """Before, teacher, after, and in between, as rows of a table: name, rate, interval, episodes, errors, endings."""
    found = []
    order = {"before": 0, "after": 1 << 30, "teacher": 1 << 31}
    for name, made in sorted(run.evaluations.items(), key=lambda item: order.get(item[0], item[1].get("step", 0))):
        outcomes = outcomes_of(made)
        if outcomes:
            rate = success_rate(outcomes)
            found.append(
                {
                    "name": {"before": "student before", "after": "student after"}.get(name, name),
                    "rate": rate,
                    "episodes": sum(map(len, outcomes.values())),
                    "turns": made.get("mean_turns"),
                    "errors": _counted(made.get("errors")),
                    "endings": _counted(made.get("endings")),
                    "stops": _counted(made.get("stops")),
                }
            )
    return found


def difference(run: RunFiles, first: str, second: str) -> Estimate | None:
    """`second` minus `first`, paired by seed, an `Estimate`; None unless both were evaluated on a seed in common."""
    return difference_of(run.evaluations.get(first), run.evaluations.get(second))


def difference_of(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Estimate | None:
    """As `difference`, of two entries of `evaluations.json`, which may be of two runs."""
    if first is None or second is None:
        return None
    try:
        return compare(outcomes_of(first), outcomes_of(second))
    except ValueError:
        return None


def outcomes_of(evaluation: Mapping[str, Any]) -> dict[int, list[bool]]:
    return {int(seed): flags for seed, flags in (evaluation.get("outcomes") or {}).items()}


def phases(run: RunFiles) -> list[tuple[str, float]]:
    """Seconds by phase, longest first: of the whole run once it is over, else of its updates so far."""
    if run.summary is not None and isinstance(run.summary.get("seconds"), dict):
        seconds = {str(name): float(value) for name, value in run.summary["seconds"].items()}
    else:
        names = {name for row in run.metrics for name in row if name.startswith("seconds_")}
        seconds = {name.removeprefix("seconds_"): sum(row.get(name) or 0.0 for row in run.metrics) for name in names}
    # parts of the rollout, which would be counted twice
    parts = {name: seconds.pop(name) for name in list(seconds) if name.startswith("rollout_")}
    for name in ("generate", "environment"):
        seconds.pop(name, None)
    found = sorted(seconds.items(), key=lambda item: -item[1])
    inside = [(f"of it {name.removeprefix('rollout_')}", value) for name, value in parts.items()]
    at = next((k for k, (name, _) in enumerate(found, 1) if name == "rollout"), len(found))
    return [*found[:at], *inside, *found[at:]]


def log_ratios(sums: Sums) -> list[tuple[str, int]]:
    """How many of the student's tokens lie where on the colour scale."""
    total = np.sum([s.log_ratio for s in sums.by_step.values()], axis=0) if sums.by_step else []
    names = [
        "below -4",
        "-4 to -2",
        "-2 to -1",
        "-1 to -0.25",
        "-0.25 to 0.25",
        "0.25 to 1",
        "1 to 2",
        "2 to 4",
        "above 4",
    ]
    return [(name, int(count)) for name, count in zip(names, total, strict=False)]


def _success(run: RunFiles) -> dict[str, Any]:
    """Training episodes, pooled over stretches of updates, with Wilson's interval; evaluations of the student as
    `held`, on the same x."""
    trained: dict[int, tuple[float, float, float]] = {}
    for part in _stretches(run.metrics):
        n = sum(int(row.get("episodes", 0)) for row in part)
        won = round(sum(row.get("success", 0.0) * row.get("episodes", 0) for row in part))
        if n:
            trained[part[-1]["step"]] = (won / n, *wilson_interval(min(won, n), n))
    held = {
        int(made.get("step", 0)): success_rate(outcomes_of(made))
        for name, made in run.evaluations.items()
        if name != "teacher" and outcomes_of(made)
    }
    x = sorted({*trained, *held})

    def column(of: Mapping[int, Sequence[float]], i: int) -> list[float | None]:
        return [of[step][i] if step in of else None for step in x]

    found: dict[str, Any] = {
        "x": x,
        "series": {"success": column(trained, 0)},
        "band": [column(trained, 1), column(trained, 2)],
        "share": True,
    }
    if held:
        found["held"] = {name: column(held, i) for i, name in enumerate(("mean", "low", "high"))}
    return found


def _stretches(rows: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """`rows` in at most `POINTS` parts of equal length, a few rows each where there are many episodes to pool."""
    size = max(1, math.ceil(len(rows) / POINTS))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _by_turn(rows: Sequence[dict[str, Any]], values: str, counts: str) -> dict[str, Any]:
    """Weighted means over each group of turn indices, pooled over stretches of updates."""
    parts = _stretches(rows)
    series: dict[str, list[float | None]] = {}
    for low, high in GROUPS:
        line = []
        for part in parts:
            total = weight = 0.0
            for row in part:
                pairs = zip((row.get(values) or [])[low:high], (row.get(counts) or [])[low:high], strict=False)
                for value, count in pairs:
                    if value is not None and count:
                        total, weight = total + value * count, weight + count
            line.append(_per(total, weight))
        last = high - 1
        deepest = max((len(row.get(values) or []) for row in rows), default=0) - 1
        name = f"turn {low}" if last == low or deepest == low else f"turns {low} to {min(last, deepest)}"
        if any(value is not None for value in line):
            series[name] = line
    return {"x": [part[-1]["step"] for part in parts], "series": series}


def _reasons(sums: Sums) -> dict[str, Any]:
    """Share of the action tokens by reason, over the stored updates."""
    codes = sorted({code for s in sums.by_step.values() for code in s.reasons})
    totals = {step: sum(s.reasons.values()) for step, s in sums.by_step.items()}
    return {
        "x": list(sums.by_step),
        "series": {
            DESCRIPTIONS[Reason(code)]: [_per(s.reasons[code], totals[step]) for step, s in sums.by_step.items()]
            for code in codes
        },
        "stacked": True,
        "share": True,
    }


def _drawable(chart: dict[str, Any]) -> bool:
    series = chart["series"]
    for name in [name for name, line in series.items() if all(value is None for value in line)]:
        del series[name]
    return bool(chart["x"]) and bool(series)


def _counted(counts: Any) -> str:
    if not isinstance(counts, dict):
        return ""
    return ", ".join(f"{one_line(str(name), 60)} {count}" for name, count in counts.items())


def _per(total: float, count: float) -> float | None:
    return total / count if count else None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
