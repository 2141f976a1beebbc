"""Intervals and comparisons against closed forms, brute force and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trpd_agents.evaluation.statistics import (
    compare,
    mean_pass_at_k,
    paired_difference,
    pass_at_k,
    success_rate,
    wilson_interval,
)

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_the_textbook_formula(drawn: tuple[int, int], confidence: float) -> None:
    successes, n = drawn
    z, p = stats.norm.ppf((1 + confidence) / 2), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(successes, n, confidence) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_wilson_at_the_edges() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(0, 20)
    assert low == pytest.approx(0.0, abs=1e-12) and 0.1 < high < 0.2
    for bad in [(5, 4), (-1, 4)]:
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(*bad)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 1.0)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.95])
def test_wilson_covers_the_truth_about_as_often_as_it_says(p: float) -> None:
    # Exact, not simulated: the probability of every possible count.
    n = 60
    covered = sum(
        stats.binom.pmf(k, n, p) for k in range(n + 1) if wilson_interval(k, n)[0] <= p <= wilson_interval(k, n)[1]
    )
    assert 0.91 < covered < 0.99


def test_paired_difference_agrees_with_scipy_bootstrap() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.random(120) < 0.4, rng.random(120) < 0.6
    ours = paired_difference(before.tolist(), after.tolist())
    difference = after.astype(float) - before
    theirs = stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=10_000, rng=rng)
    assert ours.mean == pytest.approx(difference.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, covered, trials = 0.15, 0, 300
    for trial in range(trials):
        difficulty = rng.random(80)  # shared by a pair, so that pairs are correlated
        before, after = difficulty < 0.4, difficulty + rng.normal(0, 0.1, 80) < 0.55
        result = paired_difference(before.tolist(), after.tolist(), seed=trial, resamples=400)
        covered += result.low <= truth <= result.high
    assert 0.90 < covered / trials <= 0.99


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.random(200)
    before, after = difficulty < 0.4, difficulty < 0.5
    paired = paired_difference(before.tolist(), after.tolist())
    shuffled = paired_difference(before.tolist(), rng.permutation(after).tolist())
    assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize(
    ("before", "after", "mean"), [([True, False], [True, False], 0.0), ([False] * 9, [True] * 9, 1.0)]
)
def test_equal_differences_do_not_claim_certainty(before: list[bool], after: list[bool], mean: float) -> None:
    result = paired_difference(before, after)
    assert result.mean == mean
    assert -1 <= result.low < result.high <= 1
    assert paired_difference(before * 10, after * 10).low > result.low


def test_paired_difference_is_a_function_of_its_seed_and_antisymmetric() -> None:
    before, after = [True, False, False, True, False], [True, True, False, True, True]
    assert paired_difference(before, after, seed=1) == paired_difference(before, after, seed=1)
    forth, back = paired_difference(before, after), paired_difference(after, before)
    assert forth.mean == -back.mean
    assert forth.low == pytest.approx(-back.high, abs=0.21)
    for bad in [([True], [True, False]), ([], [])]:
        with pytest.raises(ValueError, match="pair"):
            paired_difference(*bad)


@settings(deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    flags = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(flags, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_what_has_no_estimate() -> None:
    for bad in [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)]:
        with pytest.raises(ValueError, match="must lie between"):
            pass_at_k(*bad)


def test_success_rate_counts_seeds_not_episodes() -> None:
    once = {seed: [seed % 2 == 0] for seed in range(40)}
    assert success_rate(once)[1:] == pytest.approx(wilson_interval(20, 40))
    # Eight identical episodes of each seed carry no more information than one.
    repeated = {seed: flags * 8 for seed, flags in once.items()}
    assert success_rate(repeated).mean == 0.5
    assert success_rate(repeated).high - success_rate(repeated).low > 0.25
    nothing = success_rate({3: []})
    assert math.isnan(nothing.mean) and nothing[1:] == (0.0, 1.0)


def test_compare_uses_shared_seeds_only() -> None:
    before = {1: [False], 2: [True], 3: [False], 9: [True]}
    after = {1: [True], 2: [True], 3: [True, False], 8: [False], 9: []}
    assert compare(before, after).mean == pytest.approx((1 + 0 + 0.5) / 3)
    with pytest.raises(ValueError, match="in common"):
        compare({1: [True]}, {2: [True]})


def test_mean_pass_at_k_leaves_out_seeds_with_too_few_episodes() -> None:
    outcomes = {1: [True, False], 2: [False, False], 3: [True]}
    assert mean_pass_at_k(outcomes, 2) == 0.5
    assert math.isnan(mean_pass_at_k(outcomes, 3))
