from __future__ import annotations

import numpy as np
import pytest

from trpd_agents.credit.config import BernoulliGuidance, NoGuidance, PrefixGuidance, RescueGuidance
from trpd_agents.credit.guidance import (
    guided_share,
    guided_turns,
    half_cosine,
    imitation_weight,
    leads,
    plans_turns,
)


def test_share_falls_from_one_to_zero_along_a_half_cosine():
    shares = [half_cosine(s / 200) for s in range(201)]
    assert shares[0] == 1 and shares[100] == pytest.approx(0.5) and shares[200] == 0
    assert all(a > b for a, b in zip(shares, shares[1:], strict=False))
    assert half_cosine(0.25) == pytest.approx(0.853553, abs=1e-6)
    assert half_cosine(5) == 0


@pytest.mark.parametrize("progress", [-0.1, float("nan")])
def test_no_share_before_the_start(progress):
    with pytest.raises(ValueError, match="progress: found"):
        half_cosine(progress)


def test_turns_are_whole_and_fall_from_all_to_none():
    turns = [guided_turns(PrefixGuidance(turns=6), s / 60) for s in range(61)]
    assert turns[0] == 6 and turns[-1] == 0
    assert sorted(turns, reverse=True) == turns and set(turns) == set(range(7))


def test_a_constant_prefix_stays():
    assert {guided_turns(PrefixGuidance(turns=3, schedule="constant"), s / 20) for s in range(21)} == {3}


def test_a_prefix_is_the_first_turns():
    guidance = PrefixGuidance(turns=6)
    for progress in (0.0, 0.3, 0.9):
        led = [leads(guidance, progress, seed=1, episode=9, turn=k) for k in range(10)]
        n = guided_turns(guidance, progress)
        assert led == [True] * n + [False] * (10 - n)


def test_bernoulli_falls_to_none_where_it_should():
    guidance = BernoulliGuidance(until=0.5)
    assert guided_share(guidance, 0) == 1
    assert guided_share(guidance, 0.25) == pytest.approx(0.5)
    assert guided_share(guidance, 0.5) == guided_share(guidance, 0.9) == 0
    assert all(leads(guidance, 0.0, 0, e, k) for e in range(20) for k in range(5))
    assert not any(leads(guidance, 0.5, 0, e, k) for e in range(20) for k in range(5))


def draws(seed: int, progress: float = 0.3) -> np.ndarray:
    return np.array([[leads(BernoulliGuidance(), progress, seed, e, k) for k in range(8)] for e in range(150)])


def test_bernoulli_draws_follow_the_share_and_are_independent():
    found, share = draws(0), guided_share(BernoulliGuidance(), 0.3)
    assert found.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / found.size))
    assert len({tuple(row) for row in found}) > 30  # episodes differ
    assert 0.3 < (found[:, 0] == found[:, 1]).mean() < 0.8  # and so do the turns of one
    assert (draws(0) == found).all() and (draws(1) != found).any()


def test_bernoulli_only_hands_back_as_the_run_goes_on():
    """The same number decides a turn at every share, so a turn that became the student's stays the student's."""
    assert not (draws(0, 0.5) & ~draws(0, 0.3)).any()


@pytest.mark.parametrize(
    ("guidance", "early", "late", "weight"),
    [
        (NoGuidance(), False, False, 0.0),
        (PrefixGuidance(beta=0.5, turns=2), True, False, 0.5),
        (PrefixGuidance(beta=0.5, schedule="constant"), True, True, 0.5),
        (BernoulliGuidance(beta=0.25), True, False, 0.25),
        (RescueGuidance(beta=2.0), True, True, 2.0),
    ],
)
def test_whether_the_teacher_plays_and_what_imitating_it_weighs(guidance, early, late, weight):
    assert (plans_turns(guidance, 0.0), plans_turns(guidance, 0.99)) == (early, late)
    assert imitation_weight(guidance) == weight
