"""Pictures of an audit: what happens over turns, how well each figure tells, and what each method masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trpd_agents.audit.signals import SIGNALS
from trpd_agents.study.plots import COLOURS, DASHES

if TYPE_CHECKING:
    from trpd_agents.audit.run import Audit

BY_TURN = {
    "on_track": "a solution still exists",
    "teacher_right": "teacher right, of these",
    "student_right": "student right, of these",
    "tv": "mean tv",
}


def plot(audit: Audit, folder: Path) -> list[Path]:
    """Write every picture; none where matplotlib is not installed, which is optional."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    draw = {"by-turn": _by_turn, "auroc": _auroc, "masks": _masks}
    return [_save(how, audit, folder / f"{name}.png") for name, how in draw.items()]


def _save(draw: Any, audit: Audit, file: Path) -> Path:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(7, 6 if draw is _auroc else 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    draw(audit, axes)
    axes.set_title(audit.config.env.id)
    if axes.get_legend_handles_labels()[0]:  # nothing may be defined
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(file)
    pyplot.close(figure)
    return file


def _by_turn(audit: Audit, axes: Any) -> None:
    for number, (key, label) in enumerate(BY_TURN.items()):
        values = [row[key] for row in audit.by_turn]
        axes.plot(range(len(values)), values, DASHES[number], color=COLOURS[number], label=label, marker=".")
    axes.set_xlabel("turn")
    axes.set_ylabel("share of turns")
    axes.set_ylim(-0.02, 1.02)


def _auroc(audit: Audit, axes: Any) -> None:
    names = list(SIGNALS)[::-1]
    kinds = (("wrong, on track", audit.predicts_wrong, 0.15), ("bad, all turns", audit.predicts_bad, -0.15))
    for number, (label, found, shift) in enumerate(kinds):
        points = [(i + shift, found[name].estimate) for i, name in enumerate(names)]
        points = [(y, estimate) for y, estimate in points if not math.isnan(estimate.mean)]
        style = {"color": COLOURS[5 - number], "label": label}
        axes.plot([e.mean for _, e in points], [y for y, _ in points], "os"[number], markersize=4, **style)
        axes.hlines([y for y, _ in points], [e.low for _, e in points], [e.high for _, e in points], style["color"])
    axes.set_yticks(range(len(names)), [f"{name}{'' if SIGNALS[name].causal else ' *'}" for name in names], fontsize=7)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("AUROC (* looks at the turn itself)")


def _masks(audit: Audit, axes: Any) -> None:
    for number, (name, found) in enumerate(audit.methods.items()):
        good, bad = found.good_masked, found.bad_masked
        if math.isnan(good.mean) or math.isnan(bad.mean):
            continue
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([good.mean], [bad.mean], "osD^v<>P"[number % 8], color=colour, label=name, markersize=6)
        axes.plot([good.low, good.high], [bad.mean, bad.mean], color=colour, linewidth=1)
        axes.plot([good.mean, good.mean], [bad.low, bad.high], color=colour, linewidth=1)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("good supervision masked")
    axes.set_ylabel("bad supervision masked")
