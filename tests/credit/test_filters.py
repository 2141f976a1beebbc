import dataclasses
import math

import pytest
import torch

from trpd_agents.credit import (
    CreditConfig,
    Divergence,
    HysteresisRule,
    KeptTokensNormaliser,
    MaxDivergenceFilter,
    PrefixGuidance,
    Reason,
    RewardAlignedFilter,
    TurnMeanNormaliser,
    assign_credit,
    scored_batch,
)

REWARD = CreditConfig(filter=RewardAlignedFilter())


def kept(credit):
    return (credit.policy_weight.sum(1) > 0).tolist()


# ---- reward aligned ------------------------------------------------------------------------------


def test_a_trajectory_counts_if_the_teacher_agrees_with_its_outcome(build_batch, turn_type):
    likes = [turn_type([-2.0, -1.0], [-1.0, -1.5]), turn_type([-1.0], [-1.0])]  # sum d = +0.5
    dislikes = [turn_type([-1.0], [-0.5]), turn_type([-1.0], [-2.0])]  # sum d = -0.5
    agrees = [turn_type([-1.0], [-1.0])]
    scored = build_batch([likes, likes, dislikes, dislikes, agrees, agrees], success=[True, False] * 3)
    credit = assign_credit(scored, REWARD)
    assert kept(credit) == [True, False, False, True, True, True]
    assert credit.counts["filtered_trajectories"] == 2
    assert credit.turn_weight.sum(1).tolist() == [2, 0, 0, 2, 2, 2]


def test_outcomes_are_asked_for_by_name(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-2.0])]])
    with pytest.raises(ValueError, match="filter 'reward_aligned' needs the outcome"):
        assign_credit(scored, REWARD)
    unscored = dataclasses.replace(scored, teacher_available=torch.tensor([False]))
    credit = assign_credit(unscored, REWARD)  # nobody to judge
    assert credit.counts["filtered_trajectories"] == 0
    assert credit.reason[0, 1] == Reason.TEACHER_UNAVAILABLE


# ---- greatest divergence -------------------------------------------------------------------------


def test_one_turn_beyond_the_threshold_takes_the_trajectory_out(build_batch, turn_type):
    good, bad = turn_type([-1.0], [-1.1]), turn_type([-1.0], [-4.0])
    cut = turn_type([-1.0], [-4.0], complete=False)  # does not count, so it condemns nobody
    scored = build_batch([[good, good], [good, bad], [good, cut], []])
    credit = assign_credit(scored, CreditConfig(filter=MaxDivergenceFilter(threshold=0.5)))
    assert kept(credit) == [True, False, True, False]
    assert credit.counts["filtered_trajectories"] == 1
    nats = CreditConfig(filter=MaxDivergenceFilter(threshold=3.1), divergence=Divergence(kind="max"))
    assert kept(assign_credit(scored, nats)) == [True, True, True, False]
    never = assign_credit(scored, CreditConfig(filter=MaxDivergenceFilter(threshold=math.inf)))
    assert never.counts["filtered_trajectories"] == 0


# ---- what filtering does -------------------------------------------------------------------------


def test_a_filtered_trajectory_has_no_weight_says_why_and_stays_in_the_normaliser(build_batch, turn_type):
    bad = turn_type([-1.0, math.nan], [-9.0, -1.0])
    episode = [bad, turn_type([-1.0], [-1.0]), turn_type([-1.0], [-1.0], author="teacher")]
    scored = build_batch([episode, episode], available=[True, False])
    config = CreditConfig(
        filter=MaxDivergenceFilter(threshold=0.5), rule=HysteresisRule(), guidance=PrefixGuidance(beta=0.5)
    )
    credit = assign_credit(scored, config)
    assert not credit.policy_weight.any() and not credit.imitation_weight.any()
    assert credit.reason[0][scored.action[0] | scored.guided[0]].tolist() == [Reason.FILTERED] * 4
    assert set(credit.reason[1].tolist()) == {Reason.NOT_ACTION, Reason.TEACHER_UNAVAILABLE}
    assert credit.normaliser_weight.sum() == 6 and credit.counts["action_tokens"] == 6
    kept_tokens = assign_credit(scored, dataclasses.replace(config, normaliser=KeptTokensNormaliser()))
    assert kept_tokens.normaliser_weight.sum() == 0


def test_a_filter_looks_at_its_own_trajectory_alone(build_batch, turn_type):
    good, bad = [turn_type([-1.0], [-1.1])], [turn_type([-1.0], [-4.0])]
    for filter in (MaxDivergenceFilter(threshold=0.5), RewardAlignedFilter()):
        config = CreditConfig(filter=filter)
        both = kept(assign_credit(build_batch([good, bad], success=[False, True]), config))
        one, other = (
            kept(assign_credit(build_batch([e], success=[s]), config)) for e, s in ((good, False), (bad, True))
        )
        assert both == one + other == [True, False]


# ---- normalisers ---------------------------------------------------------------------------------


def test_a_turn_unit_sums_to_one_over_its_turn(build_batch, turn_type):
    episode = [turn_type([-1.0] * 4, [-1.0] * 4), turn_type([], []), turn_type([-1.0], [-9.0], gap=0)]
    scored = build_batch([episode, []])
    credit = assign_credit(scored, CreditConfig())
    assert credit.turn_unit[scored.action].tolist() == [0.25] * 4 + [1]
    assert credit.turn_unit.sum() == 2 and credit.turn_share == 0


def test_normalisers_differ_in_what_each_token_adds(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-9.0]), turn_type([-1.0, -1.0], [-1.0, -math.inf])]])
    region = HysteresisRule()

    def figures(normaliser):
        credit = assign_credit(scored, CreditConfig(normaliser=normaliser, rule=region))
        return credit.normaliser_weight[scored.action].tolist(), credit.turn_share

    assert figures(CreditConfig().normaliser) == ([1, 1, 1], 0)
    assert figures(TurnMeanNormaliser(share=0.25)) == ([1, 1, 1], 0.25)
    assert figures(KeptTokensNormaliser()) == ([1, 0, 0], 0)  # the second turn lies outside


def test_with_share_one_the_factors_give_the_mean_over_turns_of_token_means():
    action = torch.tensor([[1, 1, 1, 0, 1, 0, 1, 1]])
    loss = torch.tensor([[1.0, 2.0, 3.0, 0.0, 10.0, 0.0, 5.0, 7.0]])
    credit = assign_credit(
        scored_batch(action, -torch.ones(1, 8), -torch.ones(1, 8)), CreditConfig(normaliser=TurnMeanNormaliser())
    )
    n, turns = credit.normaliser_weight.sum(), credit.turn_unit.sum()
    weight = credit.policy_weight * ((1 - credit.turn_share) + credit.turn_share * credit.turn_unit * n / turns)
    assert ((weight * loss).sum() / n).item() == pytest.approx((2 + 10 + 6) / 3)
