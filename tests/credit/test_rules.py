import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import HysteresisRule, NoRule, OccupancyRule
from trpd_agents.credit.divergence import Turns
from trpd_agents.credit.rules import turn_weights
from trpd_agents.credit.rules.occupancy import log_reach

QUICK = settings(deadline=None, max_examples=30, derandomize=True)

figures = st.lists(
    st.tuples(st.floats(-5, 2), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=12
)  # log ratio, divergence, counts, ok


def turns_of(rows):
    log_ratio, divergence, counts, ok = (torch.tensor([column]) for column in zip(*rows, strict=True))
    divergence = torch.where(counts, divergence, 0)
    return Turns(log_ratio.double(), divergence.float(), counts, ok)


def weights(rule, rows):
    return turn_weights(rule, turns_of(rows))[0].tolist()


RULES = [
    NoRule(),
    OccupancyRule(budget=1.0),
    OccupancyRule(budget=1.0, form="soft", forget=0.5),
    HysteresisRule(),
    HysteresisRule(enter=0.6, leave=0.4, patience=1, evidence=False, outside_weight=0.25),
]


@QUICK
@given(rows=figures, data=st.data())
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_turn_weight_depends_on_earlier_turns_only(rule, rows, data):
    k = data.draw(st.integers(0, len(rows) - 1))
    changed = rows[:k] + data.draw(figures)
    assert weights(rule, rows)[: k + 1] == weights(rule, changed)[: k + 1]


@QUICK
@given(rows=figures)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_weights_lie_between_0_and_1_and_the_first_turn_has_1(rule, rows):
    w = weights(rule, rows)
    assert w[0] == 1 and all(0 <= x <= 1 for x in w)


@QUICK
@given(rows=figures, budget=st.floats(0, 6), forget=st.floats(0.1, 1))
def test_occupancy_is_the_definition(rows, budget, forget):
    margin = [budget + sum(row[0] * forget ** (k - 1 - j) for j, row in enumerate(rows[:k])) for k in range(len(rows))]
    soft = weights(OccupancyRule(budget=budget, form="soft", forget=forget), rows)
    assert soft == pytest.approx([min(1, math.exp(min(m, 0))) for m in margin], abs=1e-6)
    hard = weights(OccupancyRule(budget=budget, form="hard", forget=forget), rows)
    for w, m in zip(hard, margin, strict=True):
        assert w == (m >= 0) or abs(m) < 1e-9


def test_reach_without_forgetting_is_the_log_ratio_of_the_two_occupancies():
    """Enumerate a two-turn environment: the ratio of P(history), transitions included, is the sum of log ratios."""
    student, teacher = torch.tensor([0.2, 0.8]), torch.tensor([0.7, 0.3])
    transition = torch.tensor([[0.9, 0.1], [0.4, 0.6]])  # action, next state
    for action in (0, 1):
        for state in (0, 1):
            ratio = (teacher[action] * transition[action, state]) / (student[action] * transition[action, state])
            d = (teacher[action] / student[action]).log()
            reach = log_reach(torch.tensor([[d, 0.0]]), forget=1.0)
            torch.testing.assert_close(reach[0, 1], ratio.log())


def test_the_turn_that_spends_the_budget_keeps_full_weight():
    rows = [(0.0, 0, True, True), (-9.0, 0, True, True), (0.0, 0, True, True)]
    assert weights(OccupancyRule(budget=4), rows) == [1, 1, 0]
    assert weights(OccupancyRule(budget=9), rows) == [1, 1, 1]
    assert weights(OccupancyRule(budget=math.inf), rows) == [1, 1, 1]


def test_forgetting_lets_a_trajectory_back_in():
    rows = [(-6.0, 0, True, True)] + [(0.0, 0, True, True)] * 4
    assert weights(OccupancyRule(budget=4, forget=1.0), rows) == [1, 0, 0, 0, 0]
    assert weights(OccupancyRule(budget=4, forget=0.8), rows) == [1, 0, 0, 1, 1]


def hysteresis_by_hand(rule, rows):
    """The rule as prose: look back over the row of agreeing turns at every turn outside."""
    inside, w, since = True, [], 0
    for k, (_, divergence, counts, _) in enumerate(rows):
        w.append(1.0 if inside else rule.outside_weight)
        if inside and counts and divergence > rule.enter:
            inside, since = False, k + 1
        elif not inside:
            row = 0
            for _, earlier, counted, worked in rows[since : k + 1]:
                if rule.evidence and not worked:
                    row = 0
                elif counted:
                    row = row + 1 if earlier <= rule.leave else 0
            inside = row >= rule.patience
    return w


# few distinct values, so that rows of agreement and ties with the thresholds happen
figure = st.sampled_from([0.0, 0.25, 0.5, 1.0])
hysteresis_rules = st.builds(
    lambda bounds, **kwargs: HysteresisRule(leave=bounds[0], enter=bounds[1], **kwargs),
    st.tuples(figure, figure).map(sorted),
    patience=st.integers(1, 3),
    evidence=st.booleans(),
    outside_weight=st.sampled_from([0.0, 0.25]),
)
coarse = st.lists(
    st.tuples(st.just(0.0), figure, st.sampled_from([True, True, False]), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(QUICK, max_examples=150)
@given(rule=hysteresis_rules, rows=coarse)
def test_hysteresis_is_its_prose(rule, rows):
    assert weights(rule, rows) == hysteresis_by_hand(rule, rows)


@QUICK
@given(rule=hysteresis_rules, rows=coarse)
def test_hysteresis_returns_only_on_agreement_with_evidence_and_never_chatters(rule, rows):
    w = weights(rule, rows)
    for k in range(1, len(rows)):
        _, divergence, counts, ok = rows[k - 1]
        if w[k - 1] < w[k]:  # back inside
            assert counts and divergence <= rule.leave and (ok or not rule.evidence)
            assert k - 1 >= rule.patience  # one turn that left, then at least `patience` that agreed
        if w[k - 1] > w[k]:  # left
            assert counts and divergence > rule.enter
        if counts and rule.leave < divergence <= rule.enter:
            assert w[k - 1] == w[k]


def test_hysteresis_example():
    agree, middle, diverge = (0.0, 0.05, True, True), (0.0, 0.2, True, True), (0.0, 0.9, True, True)
    failed, short = (0.0, 0.05, True, False), (0.0, 0.0, False, True)
    rule = HysteresisRule(enter=0.3, leave=0.1, patience=2)
    assert weights(rule, [agree, diverge, agree, agree, agree]) == [1, 1, 0, 0, 1]
    assert weights(rule, [diverge, agree, failed, agree, agree, agree]) == [1, 0, 0, 0, 0, 1]
    assert weights(rule, [diverge, agree, short, agree, agree]) == [
        1,
        0,
        0,
        0,
        1,
    ]  # a turn that does not count is no break
    rejected = (0.0, 0.0, False, False)  # does not count, but the environment's verdict does
    assert weights(rule, [diverge, agree, rejected, agree, agree]) == [1, 0, 0, 0, 0]
    assert weights(rule, [diverge, agree, middle, agree, agree]) == [1, 0, 0, 0, 0]
    assert weights(rule, [middle, middle, middle]) == [1, 1, 1]
    no_evidence = HysteresisRule(enter=0.3, leave=0.1, patience=2, evidence=False)
    assert weights(no_evidence, [diverge, failed, failed, failed]) == [1, 0, 0, 1]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_turns_at_all(rule):
    empty = Turns(torch.zeros(2, 0).double(), torch.zeros(2, 0), *(torch.zeros(2, 0, dtype=torch.bool),) * 2)
    assert turn_weights(rule, empty).shape == (2, 0)
