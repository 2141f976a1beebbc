"""The tables of a study, in Markdown.

Invariant: a cell never stands for fewer seeds than it seems to. Every row says how many seeds it is made of, and of how
many it should be; the missing ones are listed with their errors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from trpd_agents.evaluation.statistics import Estimate, bonferroni, difference_over_runs, mean_over_runs
from trpd_agents.study.config import StudyConfig
from trpd_agents.study.plan import Plan
from trpd_agents.study.rates import trials
from trpd_agents.study.results import Row, outcomes
from trpd_agents.study.store import StudyDirectory

Cell = tuple[str, str, str]  # environment, teacher, method
CONFIDENCE = 0.95


def tables(study: StudyConfig, plan: Plan, rows: Sequence[Row], directory: StudyDirectory) -> str:
    """The whole report. `rows` are those of `member_rows`."""
    cells: dict[Cell, list[Row]] = {}
    for row in rows:
        if row["role"] == "study":
            cells.setdefault((row["environment"], row["teacher"], row["method"]), []).append(row)
    done = sum(row["status"] == "done" for found in cells.values() for row in found)
    parts = [
        f"{done} of {sum(map(len, cells.values()))} members finished. Success rates are those after training, on the "
        "same held-out episodes for every member. Intervals: 95 %, for other training seeds and other episodes "
        "(Student's t over seeds, a bootstrap over episodes, added in quadrature). Differences are paired by seed and "
        f"by episode. *Together*: the intervals of all comparisons with `{study.baseline}` in one table hold together "
        "with 95 % (Bonferroni)."
    ]
    for environment, teacher in dict.fromkeys((e, t) for e, t, _ in cells):
        here = {method: found for (e, t, method), found in cells.items() if (e, t) == (environment, teacher)}
        parts.append(f"## {environment}, teacher {teacher}\n\n{_about(here)}\n\n{_table(study, here, directory)}")
    if missing := [row for row in rows if row["status"] != "done"]:
        listed = "\n".join(f"- {_name(row)}: {_why(row)}" for row in missing)
        parts.append(f"## Missing\n\n{listed}")
    if chosen := _rates(plan, directory):
        parts.append(f"## Learning rates\n\nMean success on seeds of their own; the chosen rate in bold.\n\n{chosen}")
    return "\n\n".join(parts) + "\n"


def _table(study: StudyConfig, methods: Mapping[str, list[Row]], directory: StudyDirectory) -> str:
    """Methods of one environment and teacher, compared with the baseline."""
    runs = {
        method: {row["seed"]: outcomes(row, directory) for row in found if row["status"] == "done"}
        for method, found in methods.items()
    }
    baseline = runs.get(study.baseline, {})
    compared = [method for method in runs if method != study.baseline and runs[method].keys() & baseline.keys()]
    level = bonferroni(CONFIDENCE, len(compared))
    heading = ["method", "seeds", "success", f"minus {study.baseline}", "together", "learning rate", "kept"]
    heading += ["environment steps", "tokens", "seconds"]
    lines = []
    for method, found in methods.items():
        done = [row for row in found if row["status"] == "done"]
        of = f"{len(done)} of {len(found)} seeds"
        cells = [method, of if len(done) == len(found) else f"**{of}**"]
        if not done:
            lines.append([*cells, *["-"] * (len(heading) - 2)])
            continue
        cells.append(shown(mean_over_runs(runs[method], CONFIDENCE)))
        if method in compared:
            pairs = len(runs[method].keys() & baseline.keys())
            fewer = "" if pairs == len(found) else f" ({pairs} pairs)"
            found_difference = [difference_over_runs(baseline, runs[method], c) for c in (CONFIDENCE, level)]
            cells += [shown(found_difference[0], "+") + fewer, _ends(found_difference[1])]
        else:
            cells += ["-", "-"]
        rates = sorted({row["learning_rate"] for row in done})
        cells.append(", ".join(f"{rate:g}" for rate in rates))
        cells += [f"{_mean(done, 'kept_share'):.2f}"]
        cells += [f"{_mean(done, name):,.0f}" for name in ("environment_steps", "tokens", "seconds")]
        lines.append(cells)
    mixed = [
        f"`{method}`: its seeds were run with different settings or versions of the program."
        for method, found in methods.items()
        if len({(row["settings"], row["version"]) for row in found if row["status"] == "done"}) > 1
    ]
    return "\n\n".join([markdown(heading, lines), *mixed])


def _about(methods: Mapping[str, list[Row]]) -> str:
    """Where the students began, and what the teacher can do."""
    done = [row for found in methods.values() for row in found if row["status"] == "done"]
    if not done:
        return "No member has finished."
    starts = {row["seed"]: row["success_before"] for row in done}
    teacher = done[0]["success_teacher"]
    return (
        f"Success before training {statistics.fmean(starts.values()):.3f} (mean over {len(starts)} seeds), "
        f"teacher {teacher:.3f}; {done[0]['evaluation_episodes']} evaluation episodes."
    )


def _rates(plan: Plan, directory: StudyDirectory) -> str:
    """Every method's trials, one row for each choice that was made."""
    lines: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    grid: list[float] = []
    for member in plan.members:
        if not member.candidates or tuple(member.candidates.values()) in lines:
            continue
        found = trials(member, plan, directory)
        grid = [trial.rate for trial in found]
        known = [trial for trial in found if not math.isnan(trial.success)]
        best = min(known, key=lambda trial: (-trial.success, trial.rate)).rate if known else None
        texts = [
            f"{trial.finished} of {trial.members} members"
            if math.isnan(trial.success)
            else f"**{trial.success:.3f}**"
            if trial.rate == best
            else f"{trial.success:.3f}"
            for trial in found
        ]
        places = sorted({name.rsplit("/", 3)[0] for names in member.candidates.values() for name in names})
        lines[tuple(member.candidates.values())] = [member.method, ", ".join(places), *texts]
    return markdown(["method", "chosen on", *(f"{rate:g}" for rate in grid)], list(lines.values())) if lines else ""


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} {_ends(estimate, sign)}"


def _ends(estimate: Estimate, sign: str = "+") -> str:
    if math.isnan(estimate.low):
        return "[one seed, no interval]"
    return f"[{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _mean(rows: Sequence[Row], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else math.nan


def _name(row: Row) -> str:
    trial = f"/lr-{row['learning_rate']:g}" if row["role"] == "selection" else ""
    return f"`{row['environment']}/{row['teacher']}/{row['method']}{trial}/{row['seed']}`"


def _why(row: Row) -> str:
    return "not run yet" if row["error"] is None else row["error"].splitlines()[0]
