"""What a method masks of good and of bad supervision, against cases counted by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from trpd_agents.audit import Turns, draw_episodes, judge, mask, turn_signals
from trpd_agents.credit import PRESETS, CreditConfig, NoRule, OccupancyRule, RandomRule, SodRule, StopRule
from trpd_agents.textenv import EnvSpec

NUMBERS = EnvSpec("GuessNumber-v0", {"high": 7})


@pytest.fixture
def played(collect):
    """Five turns each."""
    seeds = list(range(40))
    found = collect(NUMBERS, seeds, lambda env, k: "7" if env.hint == "The secret is 1." else "1")
    return [dataclasses.replace(t, turns=t.turns[:5]) for t in found][:12]


def truth(right: list[str]) -> Turns:
    """A letter for each turn of an episode: r right, w wrong, l lost."""
    letters = "".join(right)
    episode = np.repeat(np.arange(len(right)), [len(row) for row in right])
    flag = lambda wanted: np.array([letter in wanted for letter in letters])  # noqa: E731
    return Turns(
        episode=episode,
        seed=episode,
        turn=np.concatenate([np.arange(len(row)) for row in right]),
        on_track=flag("rw"),
        teacher_right=flag("r"),
        student_right=flag(""),
        teacher_action=[""] * len(letters),
        student_action=[""] * len(letters),
        optimal=[()] * len(letters),
    )


def test_shares_by_hand(played, score):
    two = played[:2]
    score(two, [0, -3, 0, 0, 0, 0, 0, 0, -3, 0])  # outside after turn 1, and after turn 3
    found = mask(CreditConfig(rule=StopRule(enter=0.3)), two)
    assert found.kept.tolist() == found.weight.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 0]
    judged = judge(found, truth(["rwwrl", "rrwrr"]), draw_episodes(2))
    assert judged.kept == judged.weight == 0.6
    assert judged.good_masked.mean == pytest.approx(2 / 6)  # of r: turn 3 of the first, turn 4 of the second
    assert judged.bad_masked.mean == pytest.approx(2 / 4)
    assert judged.advantage.mean == pytest.approx(2 / 4 - 2 / 6)
    assert (judged.wrong_masked, judged.lost_masked) == (pytest.approx(1 / 3), 1)
    assert (judged.good_weight, judged.bad_weight) == (pytest.approx(4 / 6), 0.5)
    assert [row["kept"] for row in judged.by_turn] == [1, 1, 0.5, 0.5, 0]
    assert judged.by_turn[3]["good_masked"] == 0.5 and math.isnan(judged.by_turn[3]["bad_masked"])
    assert (judged.by_turn[4]["good_masked"], judged.by_turn[4]["bad_masked"]) == (1, 1)


def test_a_mask_is_what_the_rule_decides(played, score):
    ratios = np.random.default_rng(0).normal(-0.7, 1, size=60)
    score(played, ratios)
    found = mask(CreditConfig(rule=OccupancyRule(budget=2.0)), played)
    assert 0 < found.kept.mean() < 1
    assert found.kept.tolist() == (turn_signals(played)["occupancy"] <= 2).tolist()
    assert mask(CreditConfig(rule=NoRule()), played).kept.all()
    soft = mask(CreditConfig(rule=SodRule()), played)
    assert soft.kept.all() and soft.weight.max() == pytest.approx(1.2)  # it weighs, and masks nothing


def test_quantile_thresholds_are_of_these_episodes(played, score):
    score(played, np.random.default_rng(1).normal(-0.7, 1, size=60))
    stride = PRESETS["stride"].config
    values = turn_signals(played)["teacher_logprob"]
    fixed = StopRule(enter=float(np.quantile(values, stride.rule.enter)))
    found = mask(stride, played)
    assert found.kept.tolist() == mask(dataclasses.replace(stride, rule=fixed), played).kept.tolist()
    assert 0 < found.kept.mean() < 1


@pytest.mark.parametrize("name", ["stride", "opd-mask", "hysteresis", "random-turn-mask", "ra-opd", "reopold"])
def test_chunks_do_not_matter(played, score, name, monkeypatch):
    score(played, np.random.default_rng(2).normal(-0.7, 1, size=60))
    whole = mask(PRESETS[name].config, played, seed=3)
    monkeypatch.setattr("trpd_agents.audit.masks.AT_ONCE", 5)
    apart = mask(PRESETS[name].config, played, seed=3)
    assert np.array_equal(whole.kept, apart.kept) and whole.weight == pytest.approx(apart.weight)


def test_a_blind_mask_has_no_advantage_and_a_seeing_one_has(played, score):
    letters = ["rwrwl", "rrrww", "wwrrr", "rrrrl"] * 3
    turns = truth(letters)
    score(played, np.zeros(60))
    draws = draw_episodes(12)
    blind = judge(mask(CreditConfig(rule=RandomRule(share=0.5)), played), turns, draws)
    assert blind.advantage.low < 0 < blind.advantage.high
    seeing = judge(dataclasses.replace(mask(CreditConfig(), played), kept=turns.teacher_right * 1.0), turns, draws)
    assert seeing.advantage == (1, 1, 1) and seeing.good_masked == (0, 0, 0)


def test_intervals_are_over_episodes():
    """Ten times the turns of the same episodes change nothing."""
    letters = ["rwrl", "rrrw", "wwrr", "rwww", "rrrl"]
    few, many = truth(letters), truth([row * 10 for row in letters])
    kept = np.array([1.0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0])
    again = np.concatenate([np.tile(row, 10) for row in kept.reshape(5, 4)])
    draws = draw_episodes(5)
    one, other = (judge(type_(k), t, draws) for type_, k, t in ((both, kept, few), (both, again, many)))
    assert one.good_masked == pytest.approx(other.good_masked) and one.advantage == pytest.approx(other.advantage)
    assert one.good_masked.low < one.good_masked.mean < one.good_masked.high


def both(kept: np.ndarray):
    from trpd_agents.audit import Mask

    return Mask(kept, kept)


def test_nothing_bad_is_no_number(played, score):
    score(played, np.zeros(60))
    judged = judge(mask(CreditConfig(), played), truth(["rrrrr"] * 12), draw_episodes(12))
    assert judged.good_masked == (0, 0, 0)
    assert all(map(math.isnan, [*judged.bad_masked, *judged.advantage, judged.wrong_masked, judged.lost_masked]))
