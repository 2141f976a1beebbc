"""Intervals over training seeds: against closed forms, and simulated coverage beside that of a plain bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trpd_agents.evaluation.statistics import bonferroni, difference_over_runs, mean_over_runs, paired_difference


def runs(table: np.ndarray) -> dict[int, dict[int, list[bool]]]:
    """`[runs, episodes]` as outcomes by training seed and episode."""
    return {run: {episode: [bool(flag)] for episode, flag in enumerate(row)} for run, row in enumerate(table)}


def test_with_equal_episodes_the_interval_is_students_t_of_the_runs():
    table = np.zeros((4, 100), dtype=bool)
    for run, solved in enumerate((40, 50, 55, 75)):
        table[run, np.random.default_rng(run).permutation(100)[:solved]] = True
    rates = table.mean(axis=1)
    found = mean_over_runs(runs(table))
    low, high = stats.t.interval(0.95, 3, loc=rates.mean(), scale=stats.sem(rates))
    _, *ends = paired_difference([0.0] * 100, table.mean(axis=0).tolist())  # the bootstrap over episodes alone
    assert found.mean == pytest.approx(rates.mean())
    assert found.low == pytest.approx(found.mean - math.hypot(found.mean - low, found.mean - ends[0]))
    assert found.high == pytest.approx(found.mean + math.hypot(high - found.mean, ends[1] - found.mean))


def test_a_difference_is_paired_by_run_and_by_episode():
    rng = np.random.default_rng(0)
    before = rng.random((3, 60)) < rng.random(60)
    after = before | (rng.random((3, 60)) < 0.3)
    found = difference_over_runs(runs(before), runs(after))
    assert found.mean == pytest.approx(after.mean() - before.mean())
    shuffled = runs(np.stack([rng.permutation(row) for row in after]))
    wide = difference_over_runs(runs(before), shuffled)
    assert wide.mean == pytest.approx(found.mean) and wide.high - wide.low > found.high - found.low
    back = difference_over_runs(runs(after), runs(before))
    assert (back.mean, back.low) == pytest.approx((-found.mean, -found.high), abs=0.01)


def test_only_runs_that_both_have_and_episodes_that_all_finished():
    first = {1: {10: [True], 11: [False], 12: []}, 2: {10: [True], 11: [True], 12: [True]}, 3: {10: [False]}}
    second = {1: {10: [False], 11: [False], 13: [True]}, 2: {10: [False], 11: [True]}, 9: {10: [True]}}
    assert difference_over_runs(first, second).mean == pytest.approx((-1 + 0 - 1 + 0) / 4)
    assert mean_over_runs({1: {5: [True, False]}, 2: {5: [True, True], 6: [False]}}).mean == 0.75
    for nothing in ({}, {7: {10: [True]}}):
        with pytest.raises(ValueError, match="no training run"):
            difference_over_runs(first, nothing)
    nowhere = mean_over_runs({1: {1: [True]}, 2: {2: [True]}})
    assert math.isnan(nowhere.mean) and nowhere[1:] == (0.0, 1.0)


def test_one_run_says_nothing_of_other_runs():
    found = mean_over_runs({0: {e: [e < 3] for e in range(4)}})
    assert found.mean == 0.75 and math.isnan(found.low) and math.isnan(found.high)


def test_runs_that_all_fail_do_not_claim_certainty():
    low, high = mean_over_runs(runs(np.zeros((5, 50))))[1:]
    assert low == 0 and 0.02 < high < 0.2
    found = difference_over_runs(runs(np.zeros((5, 50))), runs(np.zeros((5, 50))))
    assert -0.2 < found.low < 0 < found.high < 0.2


def test_bonferroni_shares_what_may_go_wrong():
    assert bonferroni(0.95, 10) == pytest.approx(0.995)
    assert bonferroni(0.95, 1) == bonferroni(0.95, 0) == pytest.approx(0.95)


def plain_bootstrap(table: np.ndarray, rng: np.random.Generator, resamples: int = 300) -> tuple[float, float]:
    """The percentile bootstrap of seeds and of episodes within them, from its definition."""
    n, m = table.shape
    means = []
    for _ in range(resamples):
        means.append(np.mean([table[run, rng.integers(0, m, m)].mean() for run in rng.integers(0, n, n)]))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@pytest.mark.parametrize(("seeds", "of_seeds", "of_episodes"), [(3, 0.3, 0.5), (5, 0.1, 0.8)])
def test_coverage_with_few_seeds(seeds, of_seeds, of_episodes):
    """Runs and episodes differ in how hard they are; the truth is over all runs and episodes there could be."""
    rng, trials = np.random.default_rng(1), 150
    truth = stats.norm.cdf(0.2 / math.sqrt(of_seeds**2 + of_episodes**2 + 0.6**2))
    covered = plain = 0
    for _ in range(trials):
        ability, difficulty = rng.normal(0.2, of_seeds, (seeds, 1)), rng.normal(0, of_episodes, 50)
        table = ability + difficulty + rng.normal(0, 0.6, (seeds, 50)) > 0
        found = mean_over_runs(runs(table))
        covered += found.low <= truth <= found.high
        low, high = plain_bootstrap(table, rng, 100)
        plain += low <= truth <= high
    assert covered / trials > 0.91
    assert plain < covered - 0.05 * trials  # why the interval is not that
