"""How well a figure tells bad turns from good ones: the area under the ROC curve, with an interval over episodes.

The area is the probability that a bad turn has the larger figure than a good one, both drawn at random, a tie counting
half. Turns of one episode resemble each other, so whole episodes are resampled, never turns.

Invariant: the area depends on the order of the figures alone; NaN figures are left out and counted; where there is
nothing to tell apart there is no number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trpd_agents.evaluation.statistics import Estimate

CONFIDENCE = 0.95
RESAMPLES = 1000
_AT_ONCE = 2**22  # weights in one array: bounds the memory


@dataclass(frozen=True)
class Auroc:
    """`estimate` is NaN where it is not defined, and so are its ends where one class is in fewer than two episodes."""

    estimate: Estimate
    turns: int  # with a figure
    bad: int  # of these

    @property
    def undefined(self) -> str | None:
        """Why there is no area, or None."""
        if self.turns == 0:
            return "no turns"
        return "no bad turn" if self.bad == 0 else "no good turn" if self.bad == self.turns else None


def draw_episodes(episodes: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each episode is in each resample with replacement: float64 `[resamples, episodes]`."""
    shares = np.full(episodes, 1 / episodes)
    return np.random.default_rng(seed).multinomial(episodes, shares, size=resamples).astype(np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled `values`; those that are not defined are left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def auroc(figure: np.ndarray, bad: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Areas `[R]` of `figure` `[n]` (no NaN) as a sign of `bad` bool `[n]`, turns counting `weight` `[R, n]` times.

    Without weights every turn counts once and R is 1. NaN where either class has no weight.
    """
    weight = np.ones((1, len(figure))) if weight is None else weight
    if not len(figure):
        return np.full(len(weight), math.nan)
    order = np.argsort(figure, kind="stable")
    ranked = figure[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of each run of equal figures
    positive = np.add.reduceat(weight[:, order] * bad[order], starts, axis=1)
    negative = np.add.reduceat(weight[:, order] * ~bad[order], starts, axis=1)
    below = negative.cumsum(1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    won = (positive * (below + negative / 2)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weight), math.nan), where=pairs > 0)


def auroc_over_episodes(figure: np.ndarray, bad: np.ndarray, episode: np.ndarray, draws: np.ndarray) -> Auroc:
    """The area and its interval; all `[n]`, `episode` int into the columns of `draws` (see `draw_episodes`)."""
    known = ~np.isnan(figure)
    figure, bad, episode = figure[known], bad[known], episode[known]
    counted = len(figure), int(bad.sum())
    value = float(auroc(figure, bad)[0])
    if min(len(np.unique(episode[bad])), len(np.unique(episode[~bad]))) < 2:
        return Auroc(Estimate(value, math.nan, math.nan), *counted)
    rows = max(1, _AT_ONCE // len(figure))
    resampled = [auroc(figure, bad, draws[i : i + rows][:, episode]) for i in range(0, len(draws), rows)]
    return Auroc(Estimate(value, *interval(np.concatenate(resampled))), *counted)
