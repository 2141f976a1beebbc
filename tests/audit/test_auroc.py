"""The area under the ROC curve is the share of pairs in order, and its interval is one over episodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from trpd_agents.audit import auroc, auroc_over_episodes, draw_episodes

FIGURES = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25)


def pairs(figure: np.ndarray, bad: np.ndarray, weight: np.ndarray) -> float:
    """By its definition: every bad turn against every good one."""
    won = total = 0.0
    for i in np.flatnonzero(bad):
        for j in np.flatnonzero(~bad):
            total += weight[i] * weight[j]
            won += weight[i] * weight[j] * ((figure[i] > figure[j]) + (figure[i] == figure[j]) / 2)
    return won / total if total else math.nan


@given(FIGURES)
@settings(max_examples=200, deadline=None)
def test_it_is_the_share_of_pairs_in_order(found):
    figure, bad, weight = (np.array(column) for column in zip(*found, strict=True))
    figure = figure.astype(float)
    assert auroc(figure, bad)[0] == pytest.approx(pairs(figure, bad, np.ones(len(bad))), nan_ok=True)
    both = np.stack([weight.astype(float), np.ones(len(bad))])
    assert auroc(figure, bad, both) == pytest.approx(
        [pairs(figure, bad, weight), pairs(figure, bad, both[1])], nan_ok=True
    )


def test_it_is_mann_and_whitneys_statistic():
    rng = np.random.default_rng(0)
    figure, bad = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3
    wanted = mannwhitneyu(figure[bad], figure[~bad]).statistic / (bad.sum() * (~bad).sum())
    assert auroc(figure, bad)[0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "figure, wanted",
    [([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], 0.0), ([5, 5, 5, 5], 0.5), ([0, 1, 1, 2], 0.875), ([0, math.inf, 1, 2], 0.5)],
)
def test_cases_by_hand(figure, wanted):
    assert auroc(np.array(figure, dtype=float), np.array([False, False, True, True]))[0] == wanted


def episodes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Figures that tell something, labels and episodes: turns of one episode are much alike."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(n), 5)
    bad = np.repeat(rng.random(n) < 0.4, 5) ^ (rng.random(5 * n) < 0.1)
    return np.repeat(rng.normal(size=n), 5) + bad, bad, episode


def test_episodes_are_resampled_not_turns():
    figure, bad, episode = episodes(40)
    draws = draw_episodes(40, resamples=400)
    found = auroc_over_episodes(figure, bad, episode, draws)
    naive = [
        pairs(figure[rows], bad[rows], np.ones(len(rows)))
        for draw in draws[:12].astype(int)
        if len(rows := np.concatenate([np.flatnonzero(episode == e) for e in np.repeat(np.arange(40), draw)]))
    ]
    few = auroc_over_episodes(figure, bad, episode, draws[:12])
    assert few.estimate[1:] == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))
    copies = auroc_over_episodes(*(np.repeat(column, 10) for column in (figure, bad, episode)), draws)
    assert copies.estimate == pytest.approx(found.estimate)  # ten times the turns tell nothing new
    as_if = auroc_over_episodes(figure, bad, np.arange(200), draw_episodes(200, resamples=400))
    assert as_if.estimate.high - as_if.estimate.low < 0.8 * (found.estimate.high - found.estimate.low)


def test_the_interval_covers():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        n = 30
        effect = rng.normal(size=n)
        episode = np.repeat(np.arange(n), 4)
        bad = rng.random(4 * n) < 0.5
        figure = np.repeat(effect, 4) + rng.normal(size=4 * n)  # tells nothing: the area is 0.5
        low, high = auroc_over_episodes(figure, bad, episode, draw_episodes(n, trial, 300)).estimate[1:]
        covered += low <= 0.5 <= high
    assert covered >= 51


def test_memory_does_not_change_the_result(monkeypatch):
    figure, bad, episode = episodes(20)
    draws = draw_episodes(20, resamples=50)
    whole = auroc_over_episodes(figure, bad, episode, draws)
    monkeypatch.setattr("trpd_agents.evaluation.roc._AT_ONCE", 700)
    assert auroc_over_episodes(figure, bad, episode, draws) == whole


def test_what_is_not_defined_is_said_and_is_no_number():
    draws = draw_episodes(3, resamples=20)
    figure, episode = np.array([1.0, 2.0, 3.0]), np.arange(3)
    for bad, why in ((np.zeros(3, bool), "no bad turn"), (np.ones(3, bool), "no good turn")):
        found = auroc_over_episodes(figure, bad, episode, draws)
        assert found.undefined == why and all(map(math.isnan, found.estimate))
    nothing = auroc_over_episodes(np.full(3, math.nan), np.array([True, False, True]), episode, draws)
    assert (nothing.undefined, nothing.turns, nothing.bad) == ("no turns", 0, 0)


def test_figures_that_are_not_known_are_left_out_and_counted():
    figure = np.array([math.nan, 1.0, 2.0, math.nan])
    found = auroc_over_episodes(figure, np.array([True, False, True, False]), np.arange(4), draw_episodes(4))
    assert (found.estimate.mean, found.turns, found.bad, found.undefined) == (1.0, 2, 1, None)


def test_one_episode_has_no_interval():
    found = auroc_over_episodes(
        np.array([1.0, 2.0, 3.0]), np.array([True, True, False]), np.array([0, 0, 1]), draw_episodes(2)
    )
    assert found.estimate.mean == 0 and math.isnan(found.estimate.low) and math.isnan(found.estimate.high)
