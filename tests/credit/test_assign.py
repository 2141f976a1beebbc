import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import (
    INVALID_LOG_RATIO,
    PRESETS,
    ActionTokensNormaliser,
    BernoulliGate,
    ClipOutliers,
    ClosedGate,
    CreditConfig,
    Divergence,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    HysteresisRule,
    KeptTokensNormaliser,
    LeakyRule,
    MaskOutliers,
    NoGuidance,
    NoRule,
    OccupancyRule,
    OffGate,
    PositionRule,
    PrefixGuidance,
    ProximalOutliers,
    RandomRule,
    Reason,
    SampledEstimator,
    SodRule,
    SoftGate,
    StopRule,
    TdurRule,
    ThresholdGate,
    TopKEstimator,
    TurnMeanNormaliser,
    assign_credit,
)
from trpd_agents.trajectory import pad_scored

QUICK = settings(deadline=None, max_examples=30, derandomize=True)

INF, NAN = math.inf, math.nan
GATES = [OffGate(), ClosedGate(), BernoulliGate(), SoftGate(slack=0.5), ThresholdGate(slack=1.0)]
BOUNDED = (ClipOutliers, ProximalOutliers)  # outliers of the sampled estimator alone
OUTLIERS = [MaskOutliers(), ClipOutliers(), ProximalOutliers(), ForwardKLOutliers(top_k=3)]
OUTLIERS += [EntropyOutliers(top_k=3, threshold=0.4)]
RULES = [
    NoRule(),
    OccupancyRule(budget=2.0),
    OccupancyRule(budget=1.0, form="soft", forget=0.5),
    HysteresisRule(patience=1),
    StopRule(outside_weight=0.25),
    LeakyRule(),
    SodRule(),
    TdurRule(),
    PositionRule(),
    RandomRule(),
]


def combine(gates, outliers, rules):
    found = []
    variants = itertools.cycle(
        [
            (Divergence(), SampledEstimator(), ActionTokensNormaliser()),
            (Divergence(kind="abs", min_tokens=2), FullEstimator(), KeptTokensNormaliser()),
            (Divergence(kind="k3"), TopKEstimator(top_k=2), TurnMeanNormaliser()),
        ]
    )
    for gate, outlier, rule in itertools.product(gates, outliers, rules):
        divergence, estimator, normaliser = next(variants)
        if isinstance(outlier, BOUNDED):
            estimator = SampledEstimator()
        found.append(
            CreditConfig(
                gate=gate,
                outlier=outlier,
                divergence=divergence,
                rule=rule,
                guidance=PrefixGuidance(beta=0.5),
                estimator=estimator,
                normaliser=normaliser,
            )
        )
    return found


CONFIGS = combine(GATES, OUTLIERS, RULES)
configs = st.sampled_from(CONFIGS)
TOKEN_FIELDS = (
    "policy_weight",
    "score",
    "forward_kl_weight",
    "imitation_weight",
    "normaliser_weight",
    "turn_unit",
    "reason",
)


def codes(credit):
    return [[Reason(c).name for c in row] for row in credit.reason.tolist()]


# ---- weights and reasons: see test_properties.py for what holds for every method -------------------


def test_weights_are_shares_and_every_token_has_the_reason_its_weights_show(build_batch, episodes):
    @QUICK
    @given(episodes, configs, st.sampled_from([1.0, NAN, -INF]))
    def check(batch, config, spoiled):
        scored = build_batch(batch)
        if spoiled != 1.0:
            scored.lt[:, ::3] = spoiled
        c = assign_credit(scored, config)
        for weight in (c.policy_weight, c.forward_kl_weight, c.turn_weight):
            assert ((weight >= 0) & (weight <= (1.2 if isinstance(config.rule, SodRule) else 1) + 1e-6)).all()
        for pw, fw, iw, code in zip(
            c.policy_weight.flatten().tolist(),
            c.forward_kl_weight.flatten().tolist(),
            c.imitation_weight.flatten().tolist(),
            c.reason.flatten().tolist(),
            strict=True,
        ):
            match Reason(code):
                case Reason.KEPT:
                    assert pw == 1 and fw == 0
                case Reason.DOWNWEIGHTED:
                    assert 0 < pw < 1 and fw == 0
                case Reason.UPWEIGHTED:
                    assert pw > 1 and fw == 0 and isinstance(config.rule, SodRule)
                case Reason.BOTH_KL:
                    assert pw > 0 and fw > 0
                case Reason.CLIPPED:
                    assert pw > 0 and fw == 0
                case Reason.FORWARD_KL:
                    assert pw == 0 and fw > 0
                case Reason.GUIDED:
                    assert iw == 0.5
                case _:
                    assert pw == fw == iw == 0

    check()


def test_the_same_call_gives_the_same_credit_and_leaves_its_input_alone(build_batch, episodes):
    @given(episodes, configs)
    @settings(QUICK, max_examples=10)
    def check(batch, config):
        scored, again = build_batch(batch), build_batch(batch)
        first, second = assign_credit(scored, config), assign_credit(scored, config)
        for name in (*TOKEN_FIELDS, "turn_weight", "turn_divergence"):
            assert torch.equal(getattr(first, name), getattr(second, name))
        for field in dataclasses.fields(scored):
            torch.testing.assert_close(getattr(scored, field.name), getattr(again, field.name), equal_nan=True)

    check()


# ---- turn figures --------------------------------------------------------------------------------


def test_turn_divergence_is_one_minus_mean_acceptance(build_batch, turn_type):
    turns = [
        turn_type([-1.0, -1.0], [-2.0, -0.5]),
        turn_type([-3.0], [-3.7], gap=0),  # one token, adjacent: only the explicit index tells the turns apart
        turn_type([], []),
        turn_type([-1.0], [-9.0], author="teacher"),
    ]
    credit = assign_credit(build_batch([turns]), CreditConfig())
    expected = [1 - (math.exp(-1) + 1) / 2, 1 - math.exp(-0.7), 0, 0]
    assert credit.turn_divergence[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert credit.turn_counts[0].tolist() == [True, True, False, False]
    longer = assign_credit(build_batch([turns]), CreditConfig(divergence=Divergence(min_tokens=2)))
    assert longer.turn_counts[0].tolist() == [True, False, False, False]


def test_a_cut_off_turn_keeps_its_tokens_but_does_not_count(build_batch, turn_type):
    bad = ([-1.0, -1.0], [-9.0, -9.0])
    good = turn_type([-1.0, -1.0], [-1.0, -1.0])
    config = CreditConfig(rule=HysteresisRule())
    cut = assign_credit(build_batch([[turn_type(*bad, complete=False), good]]), config)
    assert cut.turn_divergence[0].tolist() == [0, 0] and cut.turn_counts[0].tolist() == [False, True]
    assert cut.turn_weight[0].tolist() == [1, 1]
    assert cut.policy_weight.sum() == 4
    whole = assign_credit(build_batch([[turn_type(*bad), good]]), config)
    assert whole.turn_weight[0].tolist() == [1, 0]
    # occupancy is about what was played, cut off or not
    played = CreditConfig(rule=OccupancyRule())
    both = [turn_type(*bad, complete=False), turn_type([-1.0], [-1.0], complete=False)]
    assert assign_credit(build_batch([both]), played).turn_weight[0, 1] == 0


def test_occupancy_sums_over_the_students_tokens_of_all_earlier_turns(build_batch, turn_type):
    d = [-1.0, -2.0, -0.5, -4.0]
    turns = [turn_type([-1.0, -1.0], [-1.0 + x / 2] * 2) for x in d]
    soft = CreditConfig(rule=OccupancyRule(budget=2.0, form="soft"))
    assert assign_credit(build_batch([turns]), soft).turn_weight[0].tolist() == pytest.approx(
        [1, 1, math.exp(-1), math.exp(-1.5)]
    )
    turns[1].author = "teacher"  # those two nats are no longer the student's
    assert assign_credit(build_batch([turns]), soft).turn_weight[0].tolist() == pytest.approx([1, 1, 1, 1])


def test_both_streams_of_a_turn_are_weighed(build_batch, turn_type):
    turns = [turn_type([-1.0], [-4.0]), turn_type([-1.0, -1.0], [-9.0, -1.0])]
    config = CreditConfig(
        gate=SoftGate(), outlier=ForwardKLOutliers(top_k=3), rule=OccupancyRule(budget=2, form="soft")
    )
    scored = build_batch([turns])
    credit = assign_credit(scored, config)
    w = math.exp(-1)
    assert credit.policy_weight[scored.action].tolist() == pytest.approx([math.exp(-3), w * math.exp(-8), w])
    assert credit.forward_kl_weight[scored.action].tolist() == pytest.approx(
        [1 - math.exp(-3), w * (1 - math.exp(-8)), 0]
    )


# ---- outliers ------------------------------------------------------------------------------------


def test_outlier_branches(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0] * 3, [-0.5, -1.5, -7.0])]])
    gate = ThresholdGate(slack=1.0)

    mask = assign_credit(scored, CreditConfig(gate=gate, outlier=MaskOutliers()))
    assert mask.policy_weight[scored.action].tolist() == [1, 1, 0]
    assert codes(mask)[0][1:] == ["KEPT", "KEPT", "GATE_REJECTED"]

    clip = assign_credit(scored, CreditConfig(gate=gate, outlier=ClipOutliers(floor=-2.0)))
    assert clip.policy_weight[scored.action].tolist() == [1, 1, 1]
    assert clip.score[scored.action].tolist() == [0.5, -0.5, -2]
    assert codes(clip)[0][1:] == ["KEPT", "KEPT", "CLIPPED"]

    forward = assign_credit(scored, CreditConfig(gate=gate, outlier=ForwardKLOutliers(top_k=3)))
    assert forward.policy_weight[scored.action].tolist() == [1, 1, 0]
    assert forward.forward_kl_weight[scored.action].tolist() == [0, 0, 1]
    assert codes(forward)[0][1:] == ["KEPT", "KEPT", "FORWARD_KL"]
    assert forward.counts["kept_share"] == pytest.approx(2 / 3)
    assert forward.counts["forward_kl_share"] == pytest.approx(1 / 3)


def test_a_soft_gate_mixes_the_score_with_its_floor(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-5.0])]])
    credit = assign_credit(scored, CreditConfig(gate=SoftGate(), outlier=ClipOutliers(floor=-2.0)))
    p = math.exp(-4)
    assert credit.score[scored.action].item() == pytest.approx(p * -4 + (1 - p) * -2)
    assert credit.policy_weight[scored.action].item() == 1


def test_forward_kl_needs_top_tokens(build_batch, turn_type):
    scored = dataclasses.replace(build_batch([[turn_type([-1.0], [-5.0])]]), top_ids=None, top_lt=None)
    with pytest.raises(ValueError, match="score the trajectories with top_k=64"):
        assign_credit(scored, PRESETS["tropd"].config)
    assert assign_credit(scored, PRESETS["opd"].config).counts["kept_share"] == 1


# ---- invalid values ------------------------------------------------------------------------------


@pytest.mark.parametrize("spoiled", [-INF, INF, NAN])
def test_an_invalid_teacher_score_diverges_is_counted_and_carries_no_reverse_kl(spoiled, build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0, -1.0], [-1.0, spoiled]), turn_type([-1.0], [-1.0])]])
    credit = assign_credit(scored, CreditConfig(rule=OccupancyRule(budget=19.0)))
    assert credit.policy_weight[scored.action].tolist() == [1, 0, 0]
    assert credit.score[scored.action].tolist() == [0, INVALID_LOG_RATIO, 0]
    assert codes(credit)[0][1:3] == ["KEPT", "TEACHER_LOGPROB_INVALID"] and codes(credit)[0][4] == "OUTSIDE_REGION"
    assert credit.turn_divergence[0, 0].item() == pytest.approx(0.5)
    assert credit.turn_weight[0].tolist() == [1, 0]  # 20 nats are more than the budget, and finite
    assert credit.counts["teacher_logprob_invalid"] == 1

    forward = CreditConfig(outlier=ForwardKLOutliers(top_k=3))
    assert assign_credit(scored, forward).forward_kl_weight[scored.action].tolist() == [0, 1, 0]
    scored.top_lt[:] = NAN
    broken = assign_credit(scored, forward)
    assert not broken.forward_kl_weight.any()
    assert codes(broken)[0][2] == "TEACHER_LOGPROB_INVALID"


@pytest.mark.parametrize("estimator", [FullEstimator(), TopKEstimator()], ids=str)
def test_an_exact_estimator_still_learns_from_a_teacher_that_rules_a_token_out(estimator, build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0] * 3, [-1.0, -INF, NAN])]])
    credit = assign_credit(scored, CreditConfig(estimator=estimator))
    assert credit.policy_weight[scored.action].tolist() == [1, 1, 0]
    assert credit.counts["teacher_logprob_invalid"] == 2


@pytest.mark.parametrize("spoiled", [-INF, NAN])
def test_an_invalid_student_score_drops_the_token_alone(spoiled, build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0, spoiled], [-1.1, -1.0]), turn_type([-1.0], [-1.0])]])
    for config in CONFIGS:
        credit = assign_credit(scored, config)
        assert codes(credit)[0][2] == "STUDENT_LOGPROB_INVALID"
        assert credit.policy_weight[0, 2] == credit.forward_kl_weight[0, 2] == credit.score[0, 2] == 0
        assert credit.counts["student_logprob_invalid"] == 1
    credit = assign_credit(scored, CreditConfig())
    assert credit.turn_divergence[0, 0].item() == pytest.approx(1 - math.exp(-0.1), abs=1e-6)


def test_a_trajectory_without_a_teacher_weighs_nothing_but_stays_counted(build_batch, turn_type):
    episode = [turn_type([-1.0], [-2.0]), turn_type([-1.0], [-2.0], author="teacher")]
    scored = build_batch([episode, episode], available=[True, False])
    credit = assign_credit(scored, CreditConfig(guidance=PrefixGuidance(beta=0.5)))
    assert credit.policy_weight.sum(1).tolist() == [1, 0] and credit.imitation_weight.sum(1).tolist() == [0.5, 0]
    assert credit.turn_weight[1].tolist() == [0, 0] and not credit.turn_counts[1].any()
    assert codes(credit)[1] == ["NOT_ACTION", "TEACHER_UNAVAILABLE"] * 2
    assert credit.counts["action_tokens"] == 2 and credit.counts["teacher_unavailable"] == 1
    assert credit.counts["acceptance"] == pytest.approx(math.exp(-1))


def test_guided_tokens_are_imitated_only_under_guidance(build_batch, turn_type):
    scored = build_batch([[turn_type([NAN], [-1.0], author="teacher"), turn_type([-1.0], [-1.0])]])
    guided = assign_credit(scored, dataclasses.replace(PRESETS["tropd"].config, outlier=ForwardKLOutliers(top_k=3)))
    assert guided.imitation_weight[scored.guided].tolist() == pytest.approx([1e-3])
    assert codes(guided)[0] == ["NOT_ACTION", "GUIDED", "NOT_ACTION", "KEPT"]
    assert guided.counts["guided_tokens"] == 1 and guided.counts["student_logprob_invalid"] == 0
    assert not assign_credit(scored, CreditConfig(guidance=NoGuidance())).imitation_weight.any()


# ---- shapes and types ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS[:: len(CONFIGS) // 8], ids=str)
def test_empty_batches(config, build_batch, turn_type):
    for episodes in ([[]], [[turn_type()]], [[turn_type([-1.0], [-1.0], author="teacher")], []]):
        credit = assign_credit(build_batch(episodes), config)
        assert not credit.policy_weight.any() and credit.counts["action_tokens"] == 0
        assert all(math.isfinite(v) for v in credit.counts.values())


def test_half_precision_scores_are_computed_in_float32(build_batch, turn_type):
    episode = [turn_type([-1.0, -0.3], [-1.5, -8.0]), turn_type([-2.0], [-1.0])]
    half = build_batch([episode], dtype=torch.bfloat16)
    wide = dataclasses.replace(half, ls=half.ls.float(), lt=half.lt.float())
    for config in CONFIGS:
        a, b = assign_credit(half, config), assign_credit(wide, config)
        for name in (*TOKEN_FIELDS, "turn_weight", "turn_divergence"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert a.policy_weight.dtype == a.score.dtype == torch.float32 and a.reason.dtype == torch.int8


def test_no_gradient_passes(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-2.0])]])
    scored.ls.requires_grad_()
    credit = assign_credit(scored, CreditConfig(gate=SoftGate()))
    assert not credit.policy_weight.requires_grad and not credit.score.requires_grad


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda s: dataclasses.replace(s, ls=s.ls[:, :-1]), "ls: found shape"),
        (lambda s: dataclasses.replace(s, complete=s.complete[:, :-1]), "complete: found shape"),
        (lambda s: dataclasses.replace(s, guided=s.action), "also action"),
        (lambda s: dataclasses.replace(s, turn=s.turn + 1), "wanted an explicit turn"),
        (lambda s: dataclasses.replace(s, turn=torch.full_like(s.turn, -1)), "outside turns 0 to 0"),
        (lambda s: dataclasses.replace(s, top_lt=s.top_lt[:, :-1]), "top_lt: found shape"),
    ],
)
def test_batches_that_contradict_themselves_are_refused(spoil, complaint, build_batch, turn_type):
    with pytest.raises(ValueError, match=complaint):
        assign_credit(spoil(build_batch([[turn_type([-1.0], [-1.0])]])), CreditConfig())


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_rank_left_without_scored_episodes_still_gets_its_credit(name, build_batch, turn_type):
    nobody = assign_credit(pad_scored([]), PRESETS[name].config)
    assert nobody.policy_weight.shape == (0, 0) and nobody.counts["action_tokens"] == 0
    unscored = dataclasses.replace(build_batch([[turn_type([-1.0], [-1.5])]]), teacher_available=torch.tensor([False]))
    credit = assign_credit(dataclasses.replace(unscored, top_ids=None, top_lt=None), PRESETS[name].config)
    assert not credit.policy_weight.any() and not credit.forward_kl_weight.any()
