"""What can be said from a finite number of episodes: intervals around success rates and differences between agents.

Every rate in a report comes with the interval computed here. The independent unit is the environment seed: several
episodes of one seed are averaged before anything is resampled, and two agents are compared on the seeds that both
played, because pairs differ by far less noise than two independent samples would.

`outcomes` maps an environment seed to the success flags of its episodes. Episodes that failed for a fault of the
environment are not in it: they are neither successes nor failures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Outcomes = Mapping[int, Sequence[bool]]


class Estimate(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a success rate; with no episodes nothing is known: (0, 1).

    It keeps close to its nominal coverage for rates near 0 and 1, where the normal approximation fails (Wilson 1927;
    Brown, Cai and DasGupta 2001). Raises ValueError unless 0 <= successes <= n and 0 < confidence < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and the number of episodes, found {successes} of {n}")
    _check_confidence(confidence)
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def success_rate(outcomes: Outcomes, confidence: float = 0.95) -> Estimate:
    """Mean over seeds of each seed's share of successes; NaN in (0, 1) when there is no episode.

    With one episode per seed the interval is Wilson's; with several it is a bootstrap over seeds, because episodes of
    one seed resemble each other and counting them as independent would make the interval too narrow.
    """
    _check_confidence(confidence)
    played = [flags for flags in outcomes.values() if len(flags)]
    if not played:
        return Estimate(math.nan, 0.0, 1.0)
    rates = np.array([np.mean(flags) for flags in played])  # [seeds]
    if all(len(flags) == 1 for flags in played):
        low, high = wilson_interval(int(rates.sum()), len(rates), confidence)
        return Estimate(float(rates.mean()), low, high)
    return _bootstrap_mean(rates, (0.0, 1.0), seed=0, resamples=10_000, confidence=confidence)


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of `after - before` over pairs of the same environment seed, with its percentile bootstrap interval.

    Entries are success flags, or shares of successes in [0, 1]. Pairs are resampled with replacement; the result is a
    function of `seed`. Raises ValueError for unequal lengths or no pair.
    """
    if len(before) != len(after):
        raise ValueError(f"pairs wanted, found {len(before)} results before and {len(after)} after")
    if len(before) == 0:
        raise ValueError("a comparison needs at least one pair of episodes")
    _check_confidence(confidence)
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)  # [pairs]
    return _bootstrap_mean(difference, (-1.0, 1.0), seed=seed, resamples=resamples, confidence=confidence)


def compare(before: Outcomes, after: Outcomes, confidence: float = 0.95) -> Estimate:
    """`paired_difference` on the seeds that both agents finished. Raises ValueError when they share none."""
    shared = sorted(seed for seed in before.keys() & after.keys() if len(before[seed]) and len(after[seed]))
    if not shared:
        raise ValueError("the two evaluations have no environment seed in common")
    return paired_difference(
        [float(np.mean(before[seed])) for seed in shared],
        [float(np.mean(after[seed])) for seed in shared],
        confidence=confidence,
    )


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` attempts succeeds, from `c` successes in `n` attempts.

    `1 - C(n-c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374). Raises ValueError unless 0 <= c <= n, 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"successes must lie between 0 and the number of attempts, found {c} of {n}")
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the number of attempts ({n}), found {k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_k(outcomes: Outcomes, k: int) -> float:
    """Mean of `pass_at_k` over the seeds with at least `k` episodes; NaN when there is none."""
    values = [pass_at_k(len(flags), sum(flags), k) for flags in outcomes.values() if len(flags) >= k]
    return float(np.mean(values)) if values else math.nan


def mean_over_runs(runs: Mapping[int, Outcomes], confidence: float = 0.95) -> Estimate:
    """Success rate of a method: the mean over training runs (by training seed) of each run's success rate.

    All runs were evaluated on the same held-out episodes, so there are two sources of chance: which training seeds
    were taken, and which episodes. See `_two_way`. Raises ValueError when there is no run.
    """
    return _two_way(_table(runs), (0.0, 1.0), confidence)


def difference_over_runs(
    baseline: Mapping[int, Outcomes], other: Mapping[int, Outcomes], confidence: float = 0.95
) -> Estimate:
    """`other - baseline`, paired by training seed and by held-out episode, over the training seeds that both have.

    Raises ValueError when they share no training seed.
    """
    shared = sorted(baseline.keys() & other.keys())
    both = {run: baseline[run] for run in shared} | {-run - 1: other[run] for run in shared}
    table = _table(both)  # episodes that every run of both finished
    return _two_way(table[len(shared) :] - table[: len(shared)], (-1.0, 1.0), confidence)


def bonferroni(confidence: float, comparisons: int) -> float:
    """The level of each of `comparisons` intervals at which all of them hold together with `confidence`."""
    _check_confidence(confidence)
    return 1 - (1 - confidence) / max(comparisons, 1)


def _table(runs: Mapping[int, Outcomes]) -> np.ndarray:
    """Success `[runs, episodes]` on the episodes that every run finished; several plays of one are averaged."""
    if not runs:
        raise ValueError("there is no training run to average over")
    finished = [{episode for episode, flags in outcomes.items() if len(flags)} for outcomes in runs.values()]
    episodes = sorted(set.intersection(*finished))
    return np.array([[float(np.mean(outcomes[e])) for e in episodes] for outcomes in runs.values()]).reshape(
        len(runs), len(episodes)
    )


def _two_way(values: np.ndarray, bounds: tuple[float, float], confidence: float) -> Estimate:
    """Mean of `values` `[runs, episodes]` with an interval for other training seeds and other episodes.

    The two parts are independent and their half-widths add in quadrature. The part of the runs is Student's t on the
    runs' means: a bootstrap over three to five runs cannot be wide enough, as it never leaves the range of what it
    resamples and takes its variance for too small by (n - 1) / n. The part of the episodes, which all runs share and
    which more runs therefore do not make smaller, is a bootstrap over episodes. One run alone says nothing of other
    runs: the ends are NaN.
    """
    _check_confidence(confidence)
    runs, episodes = values.shape
    if episodes == 0:
        return Estimate(math.nan, *bounds)
    mean = float(values.mean())
    if runs == 1:
        return Estimate(mean, math.nan, math.nan)
    of_runs = float(stats.t.ppf((1 + confidence) / 2, runs - 1) * values.mean(axis=1).std(ddof=1) / math.sqrt(runs))
    of_episodes = _bootstrap_mean(values.mean(axis=0), bounds, seed=0, resamples=10_000, confidence=confidence)
    low = mean - math.hypot(of_runs, mean - of_episodes.low)
    high = mean + math.hypot(of_runs, of_episodes.high - mean)
    return Estimate(mean, max(low, bounds[0]), min(high, bounds[1]))


def _bootstrap_mean(
    values: np.ndarray, bounds: tuple[float, float], *, seed: int, resamples: int, confidence: float
) -> Estimate:
    """Percentile bootstrap of a mean of `values` `[n]`, which can lie anywhere between `bounds`.

    The values are few different ones, so a resample is a multinomial draw of their counts and no [resamples, n] array
    is built. When all values are equal a bootstrap would claim certainty; then the interval is what the sample size
    supports: up to Wilson's bound of the population may be different, and lie at either bound.
    """
    n, mean = len(values), float(values.mean())
    different, counts = np.unique(values, return_counts=True)
    if len(different) == 1:
        _, unseen = wilson_interval(0, n, confidence)
        return Estimate(mean, mean - unseen * (mean - bounds[0]), mean + unseen * (bounds[1] - mean))
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)  # [resamples, different]
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ different / n, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, found {confidence}")
