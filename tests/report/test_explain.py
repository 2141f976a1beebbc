"""The words for a turn's weight: there exactly where the rule lowered it, with the figures that the rule looked at."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit.config import (
    CreditConfig,
    HysteresisRule,
    LeakyRule,
    MaxDivergenceFilter,
    NoRule,
    OccupancyRule,
    PositionRule,
    RandomRule,
    RewardAlignedFilter,
    SodRule,
    StopRule,
    TdurRule,
)
from trpd_agents.credit.divergence import Turns
from trpd_agents.credit.rules import turn_weights
from trpd_agents.report.explain import TurnFigures, explain_filter, explain_turns

RULES = [
    NoRule(), StopRule(enter=0.5), LeakyRule(enter=0.5), HysteresisRule(enter=0.5, leave=0.2, patience=2),
    HysteresisRule(enter=0.5, leave=0.5, patience=1, evidence=False, outside_weight=0.3), OccupancyRule(budget=1.0),
    OccupancyRule(budget=1.0, form="soft", forget=0.5), SodRule(), TdurRule(), PositionRule(), RandomRule(),
]  # fmt: skip
turn = st.tuples(
    st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.7, 1.0]), st.booleans(), st.booleans(), st.booleans(), st.floats(-3, 2)
)


def figures(turns: list[tuple[float, bool, bool, bool, float]]) -> TurnFigures:
    divergence, counts, ok, repeat, log_ratio = (np.array(column) for column in zip(*turns, strict=True))
    return TurnFigures(np.where(counts, divergence, 0).astype(np.float32), counts, ok, repeat, log_ratio)


def weights(rule: object, turns: TurnFigures) -> list[float]:
    rows = {name: torch.from_numpy(np.asarray(values))[None] for name, values in vars(turns).items()}
    whole = Turns(student_surprisal=torch.zeros(rows["log_ratio"].shape, dtype=torch.float64), **rows)
    return turn_weights(rule, whole, torch.tensor([7]))[0].tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
@settings(max_examples=60, deadline=None)
@given(turns=st.lists(turn, min_size=1, max_size=9))
def test_a_turn_is_explained_exactly_where_its_weight_is_not_one(rule, turns) -> None:
    found = figures(turns)
    weight = weights(rule, found)
    words = explain_turns(rule, found, weight)
    assert [bool(why) for why in words] == [value != 1 for value in weight]


@settings(max_examples=100, deadline=None)
@given(turns=st.lists(turn, min_size=1, max_size=9))
def test_hysteresis_names_the_turn_that_led_outside(turns) -> None:
    rule = HysteresisRule(enter=0.5, leave=0.2, patience=2)
    found = figures(turns)
    for k, why in enumerate(explain_turns(rule, found, weights(rule, found))):
        if why:
            left, told = re.match(r"outside since turn (\d+), divergence ([\d.]+) > 0\.50", why).groups()  # type: ignore[union-attr]
            assert int(left) < k and found.divergence[int(left)] > 0.5
            assert float(told) == pytest.approx(found.divergence[int(left)], abs=0.006)
            assert ("last call failed" in why) == (k - 1 > int(left) and not found.ok[k - 1])


def test_a_soft_weight_is_named() -> None:
    found = figures([(0.7, True, True, False, -2.0), (0.0, True, True, False, 0.0)])
    rule = OccupancyRule(budget=1.0, form="soft")
    (_, why) = explain_turns(rule, found, weights(rule, found))
    assert why.startswith("weight 0.37: ") and "-2.00 < -1.00 nats" in why


def test_a_filter_is_explained() -> None:
    found = figures([(0.2, True, True, False, -1.0), (0.7, True, True, False, 3.0)])
    assert explain_filter(CreditConfig(filter=MaxDivergenceFilter(threshold=0.5)), found, True) == (
        "filtered out: turn 1 diverges by 0.70 > 0.50"
    )
    assert "+2.00 nats speaks against the outcome, a failure" in explain_filter(
        CreditConfig(filter=RewardAlignedFilter()), found, False
    )
