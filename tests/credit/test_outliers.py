import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import (
    BernoulliGate,
    ClipOutliers,
    ClosedGate,
    CreditConfig,
    EntropyOutliers,
    ForwardKLOutliers,
    OffGate,
    ProximalOutliers,
    Reason,
    SoftGate,
    StopRule,
    ThresholdGate,
    assign_credit,
)
from trpd_agents.credit.outliers import bounded_score

QUICK = settings(deadline=None, max_examples=40, derandomize=True)
INF, NAN = math.inf, math.nan


def one(value):
    return torch.tensor([[value]], dtype=torch.float64)


def on_actions(values, scored):
    return values[scored.action].tolist()


# ---- proximal ------------------------------------------------------------------------------------


@QUICK
@given(d=st.floats(-30, 30), mix=st.floats(0.05, 0.95), scaled=st.booleans())
def test_the_proximal_score_is_the_log_ratio_to_the_mixture(d, mix, scaled):
    found = bounded_score(ProximalOutliers(mix=mix, scaled=scaled), one(d)).item()
    assert found == pytest.approx(math.log(mix * math.exp(d) + 1 - mix) / (mix if scaled else 1), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("outlier", [ClipOutliers(), ProximalOutliers(), ProximalOutliers(mix=0.1, scaled=False)])
def test_bounded_scores_are_finite_rise_with_d_and_never_fall_below_their_floor(outlier):
    d = torch.tensor([[-1e30, -500.0, -3.0, -1.0, 0.0, 2.0, 500.0, 1e30]])
    score = bounded_score(outlier, d)[0]
    assert torch.isfinite(score).all() and (score.diff() >= 0).all() and score[4] == pytest.approx(0, abs=1e-6)
    floor = outlier.floor if isinstance(outlier, ClipOutliers) else math.log(1 - outlier.mix)
    floor /= outlier.mix if isinstance(outlier, ProximalOutliers) and outlier.scaled else 1
    assert score[0].item() == pytest.approx(floor, rel=1e-5)


def test_clip_and_proximal_share_their_default_floor():
    far = one(-1e9)
    assert bounded_score(ClipOutliers(), far).item() == pytest.approx(math.log(0.1) / 0.9)
    assert bounded_score(ProximalOutliers(), far).item() == pytest.approx(math.log(0.1) / 0.9)


def test_scaled_the_proximal_score_starts_like_d():
    assert bounded_score(ProximalOutliers(mix=0.3), one(1e-6)).item() == pytest.approx(1e-6, rel=1e-4)
    assert bounded_score(ProximalOutliers(mix=0.3, scaled=False), one(1e-6)).item() == pytest.approx(3e-7, rel=1e-4)


@pytest.mark.parametrize("outlier", [ClipOutliers(floor=-2.0), ProximalOutliers(mix=0.5)])
def test_every_gate_mixes_d_with_the_bounded_score(outlier, build_batch, turn_type):
    d = [-5.0, -0.5, 1.0]
    scored = build_batch([[turn_type([-1.0] * 3, [-1 + x for x in d])]])
    bounded = bounded_score(outlier, torch.tensor([d]))[0].tolist()

    def scores(gate):
        credit = assign_credit(scored, CreditConfig(gate=gate, outlier=outlier))
        assert on_actions(credit.policy_weight, scored) == [1, 1, 1]
        return on_actions(credit.score, scored)

    assert scores(OffGate()) == d
    assert scores(ClosedGate()) == pytest.approx(bounded, rel=1e-5)
    assert scores(ThresholdGate(slack=1.0)) == pytest.approx([bounded[0], -0.5, 1.0], rel=1e-5)
    p = [min(math.exp(x), 1) for x in d]
    soft = [q * x + (1 - q) * b for q, x, b in zip(p, d, bounded, strict=True)]
    assert scores(SoftGate()) == pytest.approx(soft, rel=1e-5)
    drawn = zip(scores(BernoulliGate()), d, bounded, strict=True)
    assert all(s in (pytest.approx(x), pytest.approx(b)) for s, x, b in drawn)


def test_a_token_without_a_teacher_score_cannot_be_bounded(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0, -1.0], [-INF, -1.2])]])
    credit = assign_credit(scored, CreditConfig(gate=ClosedGate(), outlier=ProximalOutliers()))
    assert on_actions(credit.policy_weight, scored) == [0, 1]
    assert on_actions(credit.reason, scored) == [Reason.TEACHER_LOGPROB_INVALID, Reason.CLIPPED]


# ---- entropy -------------------------------------------------------------------------------------


def undecided_batch(build_batch, turn_type):
    sure, unsure = turn_type([-1.0], [-1.5], entropy=0.3), turn_type([-1.0], [-1.5], entropy=0.9)
    return build_batch([[sure, unsure]])


def test_forward_kl_is_added_where_the_teacher_is_undecided(build_batch, turn_type):
    scored = undecided_batch(build_batch, turn_type)
    credit = assign_credit(scored, CreditConfig(outlier=EntropyOutliers(top_k=3)))
    assert on_actions(credit.policy_weight, scored) == [1, 1]
    assert on_actions(credit.forward_kl_weight, scored) == [0, 1]
    assert on_actions(credit.reason, scored) == [Reason.KEPT, Reason.BOTH_KL]
    assert credit.score[scored.action].tolist() == [-0.5, -0.5]


def test_entropy_masks_what_the_gate_rejects_and_turn_weights_apply(build_batch, turn_type):
    scored = undecided_batch(build_batch, turn_type)
    closed = assign_credit(scored, CreditConfig(gate=ClosedGate(), outlier=EntropyOutliers(top_k=3)))
    assert on_actions(closed.policy_weight, scored) == [0, 0]
    assert on_actions(closed.forward_kl_weight, scored) == [0, 1]
    assert on_actions(closed.reason, scored) == [Reason.GATE_REJECTED, Reason.FORWARD_KL]
    rule = StopRule(enter=0.1, outside_weight=0.25)
    outside = assign_credit(scored, CreditConfig(outlier=EntropyOutliers(top_k=3), rule=rule))
    assert on_actions(outside.forward_kl_weight, scored) == [0, 0.25]


def test_the_threshold_is_exclusive_and_unknown_entropy_adds_nothing(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-1.5], entropy=e)] for e in (0.5, NAN, 0.6)])
    credit = assign_credit(scored, CreditConfig(outlier=EntropyOutliers(top_k=3, threshold=0.5)))
    assert on_actions(credit.forward_kl_weight, scored) == [0, 0, 1]
    scored.top_lt[:] = NAN
    credit = assign_credit(scored, CreditConfig(outlier=EntropyOutliers(top_k=3, threshold=0.5)))
    assert not credit.forward_kl_weight.any()


def test_entropy_is_asked_for_by_name(build_batch, turn_type):
    scored = dataclasses.replace(undecided_batch(build_batch, turn_type), entropy=None)
    with pytest.raises(ValueError, match="outlier 'entropy' needs the teacher's entropy"):
        assign_credit(scored, CreditConfig(outlier=EntropyOutliers(top_k=3)))
    nobody = dataclasses.replace(scored, teacher_available=torch.tensor([False]))
    assert not assign_credit(nobody, CreditConfig(outlier=EntropyOutliers(top_k=3))).forward_kl_weight.any()


# ---- top tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("outlier", [ForwardKLOutliers, EntropyOutliers])
def test_fewer_top_tokens_than_asked_for_are_refused_with_both_numbers(outlier, build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-1.5])]])
    with pytest.raises(ValueError, match=r"found 3 of the teacher's most likely tokens.*wanted top_k=4"):
        assign_credit(scored, CreditConfig(outlier=outlier(top_k=4)))
    assign_credit(scored, CreditConfig(outlier=outlier(top_k=3)))
    assign_credit(scored, CreditConfig(outlier=outlier(top_k=2)))


def test_only_the_top_k_asked_for_have_to_be_a_distribution(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0], [-9.0])]])
    scored.top_lt[..., 2] = NAN

    def weights(k):
        config = CreditConfig(gate=ClosedGate(), outlier=ForwardKLOutliers(top_k=k))
        return on_actions(assign_credit(scored, config).forward_kl_weight, scored)

    assert weights(3) == [0] and weights(2) == [1]
    scored.top_lt[..., 1] = -INF  # ruled out, which is no harm
    assert weights(2) == [1]
    scored.top_lt[..., 0] = -INF
    assert weights(2) == [0]
