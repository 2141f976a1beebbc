import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import (
    HysteresisRule,
    LeakyRule,
    NoRule,
    OccupancyRule,
    PositionRule,
    RandomRule,
    SodRule,
    StopRule,
    TdurRule,
)
from trpd_agents.credit.config import BernoulliGate
from trpd_agents.credit.divergence import Turns
from trpd_agents.credit.gate import trust
from trpd_agents.credit.rules import fixed, turn_weights
from trpd_agents.credit.rules.occupancy import log_reach

QUICK = settings(deadline=None, max_examples=30, derandomize=True)

figures = st.lists(
    st.tuples(st.floats(-5, 2), st.floats(0, 1), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 4)),
    min_size=1,
    max_size=12,
)  # log ratio, divergence, counts, ok, repeat, surprisal


def turns_of(rows):
    rows = [
        (*row, False, 0.0)[:6] if len(row) < 6 else row for row in rows
    ]  # short rows: no repeat, nothing surprising
    log_ratio, divergence, counts, ok, repeat, surprisal = (
        torch.tensor([column]) for column in zip(*rows, strict=True)
    )
    divergence = torch.where(counts, divergence, 0)
    return Turns(log_ratio.double(), divergence.float(), counts, ok, repeat, surprisal.double())


def weights(rule, rows, **keys):
    return turn_weights(rule, turns_of(rows), torch.tensor([7]), **keys)[0].tolist()


def diverging(*divergences):
    return [(0.0, d, True, True) for d in divergences]


EARLIER = [
    NoRule(),
    OccupancyRule(budget=1.0),
    OccupancyRule(budget=1.0, form="soft", forget=0.5),
    HysteresisRule(),
    HysteresisRule(enter=0.6, leave=0.4, patience=1, evidence=False, outside_weight=0.25),
    StopRule(outside_weight=0.1),
    LeakyRule(),
    PositionRule(),
]  # they look at turns before this one only
RULES = [*EARLIER, SodRule(), TdurRule(), RandomRule()]


@QUICK
@given(rows=figures)
@pytest.mark.parametrize("rule", EARLIER, ids=str)
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


# ---- stop, leaky, position -----------------------------------------------------------------------


def test_stop_keeps_the_turn_that_diverges_and_nothing_after_it():
    rows = diverging(0.1, 0.3, 0.31, 0.0, 0.0)
    assert weights(StopRule(enter=0.3), rows) == [1, 1, 1, 0, 0]
    assert weights(StopRule(enter=0.3, outside_weight=0.25), rows) == [1, 1, 1, 0.25, 0.25]
    assert weights(StopRule(enter=math.inf), diverging(1e30, 0)) == [1, 1]
    assert weights(StopRule(enter=0.3), [(0.0, 0.9, False, True), *diverging(0.0)]) == [1, 1]


@QUICK
@given(rows=figures, enter=st.floats(0, 1), leak=st.floats(0, 1), steepness=st.floats(0, 9))
def test_leaky_is_the_definition(rows, enter, leak, steepness):
    found = weights(LeakyRule(enter=enter, leak=leak, steepness=steepness), rows)
    level = 0.0
    for (_, divergence, counts, *_), weight in zip(rows, found, strict=True):
        assert weight == pytest.approx(math.exp(-steepness * level), rel=1e-4, abs=1e-7)
        level = leak * level + (max(divergence - enter, 0) if counts else 0)


def test_what_leaked_away_is_forgiven():
    rows = diverging(0.9, 0.0, 0.0, 0.0)
    found = weights(LeakyRule(), rows)
    assert found[0] == 1 and found[1] == pytest.approx(math.exp(-3)) and found[1] < found[2] < found[3] < 1
    assert weights(LeakyRule(leak=0.0), rows)[2:] == [1, 1]
    assert len(set(weights(LeakyRule(leak=1.0), rows)[1:])) == 1


def test_position_decays_whatever_happens():
    assert weights(PositionRule(decay=0.5), diverging(0.9, 0.0, 0.3, 0.1)) == [1, 0.5, 0.25, 0.125]


# ---- sod -----------------------------------------------------------------------------------------


def test_sod_lowers_what_diverges_more_than_the_first_turn_that_counts():
    assert weights(SodRule(), diverging(0.4, 0.8, 0.1)) == pytest.approx([1, 0.5, 1.2], rel=1e-4)
    skipped = (0.0, 0.9, False, True)
    assert weights(SodRule(), [skipped, *diverging(0.4, 0.8), skipped]) == pytest.approx([1, 1, 0.5, 1], rel=1e-4)
    assert weights(SodRule(), [skipped, skipped]) == [1, 1]
    assert weights(SodRule(), diverging(-3.0, 0.0)) == [1, 1]  # a negative figure is read as none


# ---- tdur ----------------------------------------------------------------------------------------


@QUICK
@given(rows=figures)
def test_tdur_lies_between_0_and_1_and_raises_the_extremes(rows):
    found = weights(TdurRule(), rows)
    assert all(0 <= w <= 1 for w in found)
    counting = [(w, row[1], row[5]) for w, row in zip(found, rows, strict=True) if row[2]]
    if counting:
        divergences = [torch.tensor(d).item() for _, d, _ in counting]
        if min(divergences) < max(divergences):
            assert all(w == 1 for w, d, _ in counting if d == max(c[1] for c in counting))
    assert all(w == 1 for w, row in zip(found, rows, strict=True) if not row[2])


def test_tdur_example():
    rows = [(0, 0.2, True, True, False, 1.0), (0, 0.6, True, True, False, 1.0), (0, 0.3, True, True, False, 3.0)]
    assert weights(TdurRule(), rows) == pytest.approx([0, 1, 1])
    rows[2] = (0, 0.3, True, True, False, 2.0)
    rows.append((0, 0.4, True, True, False, 3.0))
    assert weights(TdurRule(), rows) == pytest.approx([0, 1, 1 - 0.75 * 0.5, 1])
    assert weights(TdurRule(), rows[:1]) == [0]  # nothing to compare with


# ---- random --------------------------------------------------------------------------------------


def test_the_random_mask_keeps_its_share_and_depends_on_names_only():
    ids, turns = torch.arange(500), turns_of([(-1.0, 0.9, True, True)] * 20)
    many = Turns(*(getattr(turns, f).expand(500, 20) for f in turns.__dataclass_fields__))
    kept = turn_weights(RandomRule(share=0.3), many, ids)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(kept.mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / kept.numel())
    assert (kept <= turn_weights(RandomRule(share=0.6), many, ids)).all()
    other = Turns(*(torch.zeros_like(getattr(many, f)) for f in turns.__dataclass_fields__))
    assert torch.equal(kept, turn_weights(RandomRule(share=0.3), other, ids))
    assert torch.equal(kept[3:4], turn_weights(RandomRule(share=0.3), turns, ids[3:4]))
    for keys in ({"step": 1}, {"seed": 1}):
        assert 0.3 < (kept != turn_weights(RandomRule(share=0.3), many, ids, **keys)).float().mean() < 0.55
    drawn = trust(BernoulliGate(), torch.full((500, 20), math.log(0.3)), ids, torch.arange(20).expand(500, 20), 0, 0)
    assert 0.3 < (kept != drawn).float().mean() < 0.55  # the token gate draws other numbers


# ---- thresholds from the run ---------------------------------------------------------------------


def test_quantiles_of_recent_turns_become_values():
    recent = torch.linspace(0, 1, 101)
    assert fixed(StopRule(enter=0.9, thresholds="quantile"), recent).enter == pytest.approx(0.9)
    rule = fixed(HysteresisRule(enter=0.8, leave=0.4, thresholds="quantile", patience=3), recent * 10)
    assert (rule.enter, rule.leave) == (pytest.approx(8), pytest.approx(4))
    assert rule.thresholds == "value" and rule.patience == 3
    latest = fixed(LeakyRule(enter=0.5, thresholds="quantile", window=11), recent)
    assert latest.enter == pytest.approx(0.95)


def test_without_recent_turns_nothing_is_outside():
    for recent in (None, torch.zeros(0)):
        for rule in (StopRule, LeakyRule, HysteresisRule):
            ready = fixed(rule(enter=0.5, thresholds="quantile"), recent)
            assert weights(ready, diverging(9.0, 9.0, 9.0)) == [1, 1, 1]


def test_quantiles_of_a_signed_divergence_are_never_negative():
    assert fixed(StopRule(enter=0.5, thresholds="quantile"), torch.tensor([-3.0, -2.0])).enter == 0


def test_rules_with_values_or_without_thresholds_stay_as_they_are():
    for rule in RULES:
        assert fixed(rule, torch.tensor([0.7])) is rule


# ---- hysteresis ----------------------------------------------------------------------------------


def hysteresis_by_hand(rule, rows):
    """The rule as prose: look back over the row of agreeing turns at every turn outside."""
    inside, w, since = True, [], 0
    for k, (_, divergence, counts, *_) in enumerate(rows):
        w.append(1.0 if inside else rule.outside_weight)
        if inside and counts and divergence > rule.enter:
            inside, since = False, k + 1
        elif not inside:
            row = 0
            for _, earlier, counted, worked, again, _ in rows[since : k + 1]:
                if rule.evidence and (again or not worked):
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
    st.tuples(
        st.just(0.0),
        figure,
        st.sampled_from([True, True, False]),
        st.booleans(),
        st.sampled_from([False, False, True]),
        st.just(0.0),
    ),
    min_size=1,
    max_size=12,
)


@settings(QUICK, max_examples=150)
@given(rule=hysteresis_rules, rows=coarse)
def test_hysteresis_is_its_prose(rule, rows):
    assert weights(rule, rows) == hysteresis_by_hand(rule, rows)


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
    again = (0.0, 0.05, True, True, True, 0.0)
    assert weights(rule, [diverge, agree, again, agree, agree, agree]) == [1, 0, 0, 0, 0, 1]
    no_evidence = HysteresisRule(enter=0.3, leave=0.1, patience=2, evidence=False)
    assert weights(no_evidence, [diverge, failed, failed, failed]) == [1, 0, 0, 1]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_turns_at_all(rule):
    flags = (torch.zeros(2, 0, dtype=torch.bool),) * 3
    empty = Turns(torch.zeros(2, 0).double(), torch.zeros(2, 0), *flags, torch.zeros(2, 0).double())
    assert turn_weights(rule, empty, torch.arange(2)).shape == (2, 0)
