"""Presets: the numbers of the papers, one point each in the method's space."""

import dataclasses
import math
import re

import pytest
import torch

from trpd_agents.credit import PRESETS, CreditConfig, assign_credit, scored_batch
from trpd_agents.credit.config import (
    BernoulliGate,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    OccupancyRule,
    PrefixGuidance,
)

D = [1.0, 0.0, -0.5, -3.0, -8.0]  # nats: log ratios from "the teacher likes it more" to "absurd"
FLOOR = math.log(0.1) / 0.9


def batch(repeat: int = 1):
    """One turn with these log ratios, and the teacher's top two tokens and its entropy (every other one undecided)."""
    d = torch.tensor(D).repeat(repeat)[None]
    ls = torch.full_like(d, -9.0)
    top_lt = torch.full((*d.shape, 64), -5.0)
    return scored_batch(
        torch.ones_like(d),
        ls,
        ls + d,
        turn=torch.zeros_like(d, dtype=torch.int64),
        top_ids=torch.zeros_like(top_lt, dtype=torch.int64),
        top_lt=top_lt,
        entropy=torch.where(torch.arange(d.shape[1]) % 2 == 0, 0.5, 0.9)[None],
        success=torch.tensor([True]),
    )


def credited(name: str, repeat: int = 1):
    return assign_credit(batch(repeat), PRESETS[name].config)


def test_opd_is_the_default_and_takes_every_score_as_it_is():
    assert PRESETS["opd"].config == CreditConfig()
    found = credited("opd")
    assert found.score[0].tolist() == pytest.approx(D) and found.policy_weight.min() == 1


def test_reopold_floors_every_score_and_top_d_bounds_every_score():
    reopold, top_d = credited("reopold"), credited("top-d")
    assert reopold.score[0].tolist() == pytest.approx([max(d, FLOOR) for d in D])
    assert top_d.score[0].tolist() == pytest.approx([math.log(0.2 * math.exp(d) + 0.8) for d in D])
    assert reopold.policy_weight.min() == top_d.policy_weight.min() == 1


def test_the_ablations_of_tropd_treat_what_the_gate_rejects():
    mask, clip, tropd = (credited(name, 400) for name in ("opd-mask", "opd-clip", "tropd"))
    kept = mask.policy_weight[0] > 0
    d = torch.tensor(D).repeat(400)
    for log_ratio in D:
        share = float(kept[d == log_ratio].float().mean())
        assert share == pytest.approx(min(math.exp(log_ratio), 1.0), abs=0.08)
    assert torch.equal(tropd.policy_weight, mask.policy_weight)
    assert torch.equal(tropd.forward_kl_weight, 1 - mask.policy_weight)
    torch.testing.assert_close(clip.score[0], torch.where(kept, d, d.clamp(min=FLOOR)))
    assert clip.policy_weight.min() == 1 and clip.forward_kl_weight.max() == 0


def test_a_soft_gate_weighs_by_what_the_other_draws_with():
    soft = credited("tropd-soft")
    assert soft.policy_weight[0].tolist() == pytest.approx([min(math.exp(d), 1.0) for d in D])
    torch.testing.assert_close(soft.forward_kl_weight, 1 - soft.policy_weight)


def test_eopd_adds_forward_kl_where_the_teacher_is_undecided_and_fkl_takes_nothing_else():
    eopd, fkl = credited("eopd"), credited("fkl")
    assert eopd.policy_weight.min() == 1 and eopd.forward_kl_weight[0].tolist() == [0, 1, 0, 1, 0]
    assert fkl.policy_weight.max() == 0 and fkl.forward_kl_weight.min() == 1


def test_the_numbers_of_the_papers():
    tropd, eopd, sft = (PRESETS[name].config for name in ("tropd", "eopd", "sft"))
    assert tropd == CreditConfig(
        gate=BernoulliGate(slack=0.0),
        outlier=ForwardKLOutliers(top_k=64, gradient="direct"),
        guidance=PrefixGuidance(beta=1e-3, schedule="cosine"),
    )
    assert eopd.outlier == EntropyOutliers(top_k=16, threshold=0.8)
    assert PRESETS["sod"].config.rule.delta == 0.2 and PRESETS["sod"].config.divergence.kind == "abs"
    assert PRESETS["guided-opd"].config.guidance.until == 0.8
    assert PRESETS["prune-opd"].config.rule.leak == 1
    assert sft.guidance.schedule == "constant" and sft.guidance.beta == 1
    trajectory, occupancy = PRESETS["trajectory"].config, PRESETS["occupancy"].config
    assert trajectory == CreditConfig(rule=OccupancyRule(budget=4.0, form="hard"), estimator=FullEstimator())
    assert occupancy == dataclasses.replace(trajectory, estimator=CreditConfig().estimator)
    assert PRESETS["hysteresis"].config.rule.evidence


def test_no_two_presets_are_the_same_method():
    configs = [preset.config for preset in PRESETS.values()]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_described_in_one_line_with_sources(name):
    preset = PRESETS[name]
    assert preset.summary.endswith(".") and "\n" not in preset.summary
    assert all(re.fullmatch(r"\d{4}\.\d{5}", source) for source in preset.sources)
    assert re.fullmatch(r"[a-z][a-z-]*", name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_assigns_finite_credit(name):
    found = credited(name, 3)
    for field in ("policy_weight", "score", "forward_kl_weight", "imitation_weight"):
        assert torch.isfinite(getattr(found, field)).all()
