"""Pictures of a study: one file for each figure, environment and teacher; a line for each method.

Colours are Okabe and Ito's, which differ for colour-blind eyes too, and lines differ in their dashes as well. Bands are
95 % intervals over seeds (Student's t); a curve of a single seed has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from trpd_agents.errors import UserError
from trpd_agents.study.results import Row

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#8A8A00")
DASHES = ("-", "--", "-.", ":")
BINS = 30  # points of a curve that has one for each update

OVER_STEPS = {
    "evaluated_success": "success on held-out episodes",
    "kept_share": "share of the student's tokens that count",
    "grad_norm": "gradient norm",
}
SHARES = ("evaluated_success", "kept_share")  # a band that leaves 0 to 1 is cut off there
BY_TURN = {"divergence": "divergence of the turn", "kept_share": "share of the turn's tokens that count"}


def plot(curves: Sequence[Row], folder: Path) -> list[Path]:
    """Write every picture for which there are points. Raises `UserError` when matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'trpd-agents[study]'") from None
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    methods = list(dict.fromkeys(row["method"] for row in curves))
    places = dict.fromkeys((row["environment"], row["teacher"]) for row in curves)
    for environment, teacher in places:
        here = [row for row in curves if (row["environment"], row["teacher"]) == (environment, teacher)]
        for by_turn, figures in ((False, OVER_STEPS), (True, BY_TURN)):
            for figure, label in figures.items():
                points = [row for row in here if row["figure"] == figure and (row["turn"] is not None) == by_turn]
                if points:
                    name = f"{figure}-by-turn" if by_turn else figure
                    file = folder / f"{environment}-{teacher}-{name}.png"
                    _draw(points, methods, figure, label, f"{environment}, teacher {teacher}", file)
                    written.append(file)
    return written


def _draw(points: Sequence[Row], methods: Sequence[str], name: str, label: str, title: str, file: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    by_turn = points[0]["turn"] is not None
    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for number, method in enumerate(methods):
        of_method = [row for row in points if row["method"] == method]
        if not of_method:
            continue
        x, mean, half, seeds = band(of_method, "turn" if by_turn else "environment_steps")
        colour = COLOURS[number % len(COLOURS)]
        style = DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(x, mean, style, color=colour, label=f"{method} ({seeds} seeds)", linewidth=1.6)
        axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    if by_turn:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name in SHARES:
        axes.set_ylim(max(axes.get_ylim()[0], -0.02), min(axes.get_ylim()[1], 1.02))
    axes.set_xlabel("turn" if by_turn else "environment steps")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(file)
    pyplot.close(figure)


def band(rows: Sequence[Row], by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """`x`, mean over seeds, half-width of its interval, and the number of seeds.

    Points that belong together are averaged within a seed first: those of the same turn; else the n-th of every seed
    where all have as many, as evaluations do; else those in one of `BINS` equal stretches of `by`. Only places at which
    every seed has a point are shown: elsewhere the mean would be one of fewer seeds. One seed: half-width 0.
    """
    points: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(row["seed"], []).append((float(row[by]), row["value"]))
    counts = {len(found) for found in points.values()}
    at = np.array([row[by] for row in rows], dtype=float)
    edges = np.linspace(at.min(), at.max(), BINS + 1)
    places: dict[int, dict[int, list[tuple[float, float]]]] = {}
    for seed, found in points.items():
        for rank, point in enumerate(sorted(found)):
            if by == "turn":
                place = int(point[0])
            elif len(counts) == 1 and max(counts) <= BINS:
                place = rank
            else:
                place = min(int(np.searchsorted(edges, point[0], side="right")) - 1, BINS - 1)
            places.setdefault(place, {}).setdefault(seed, []).append(point)
    whole = [places[place] for place in sorted(places) if len(places[place]) == len(points)]
    means = np.array([[np.mean(found[seed], axis=0) for seed in points] for found in whole])  # [places, seeds, 2]
    means = means.reshape(-1, len(points), 2)
    x, values = means[:, :, 0].mean(axis=1), means[:, :, 1]
    half = np.zeros(len(x))
    if len(points) > 1:
        half = stats.t.ppf(0.975, len(points) - 1) * values.std(axis=1, ddof=1) / np.sqrt(len(points))
    return x, values.mean(axis=1), half, len(points)
