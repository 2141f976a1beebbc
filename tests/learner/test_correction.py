"""Trainer versus sampler, against a reference written token by token from the definition."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trpd_agents.config import LearnerConfig
from trpd_agents.config.correction import CorrectionConfig
from trpd_agents.credit import assign_credit
from trpd_agents.credit.presets import PRESETS
from trpd_agents.distributed import World
from trpd_agents.learner.correction import correct, correction_factor, seen_by_trainer
from trpd_agents.models import LanguageModel
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn, pad_scored

TRUNCATE, MASK = CorrectionConfig(kind="truncate"), CorrectionConfig(kind="mask")
OPD = PRESETS["opd"].config
VALUES = st.one_of(st.floats(-30, 0), st.sampled_from([-math.inf, math.nan]))


def naive(trainer: float, sampler: float, kind: str, limit: float) -> float:
    if not math.isfinite(trainer) or not math.isfinite(sampler):
        return 1.0
    rho = math.exp(min(20.0, max(-20.0, trainer - sampler)))
    if kind == "truncate":
        return limit if rho > limit else rho
    if kind == "mask":
        return 0.0 if rho > limit or rho < 1 / limit else 1.0
    return 1.0


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.sampled_from(["none", "truncate", "mask"]))
def test_the_factor_is_the_definitions(pairs, kind):
    config = CorrectionConfig(kind=kind, limit=3.0)
    trainer, sampler = torch.tensor(pairs, dtype=torch.float32).T
    factor, rho = correction_factor(trainer, sampler, config)
    wanted = [naive(*pair, kind, 3.0) for pair in zip(trainer.tolist(), sampler.tolist(), strict=True)]
    close = torch.isclose(rho, torch.tensor(3.0)) | torch.isclose(rho, torch.tensor(1 / 3))  # on the edge: either way
    assert torch.allclose(factor[~close], torch.tensor(wanted)[~close], rtol=1e-4)


def test_a_ratio_keeps_expectations_right_where_it_is_not_truncated():
    """`E_sampler[rho f] = E_trainer[f]` over a small vocabulary, by enumeration."""
    trainer, sampler, f = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2]), torch.tensor([1.0, -2.0, 5.0])
    factor, _ = correction_factor(trainer.log(), sampler.log(), TRUNCATE)
    assert float((sampler * factor * f).sum()) == pytest.approx(float((trainer * f).sum()), abs=1e-6)


def played(sampler: list[float], *, id: int = 0, guided: bool = False) -> Trajectory:
    """A student's turn of as many tokens, after a prompt of two; then, if `guided`, one of the teacher's."""
    n, extra = len(sampler), 2 if guided else 0
    turns = [Turn((0, 2), (2, 2 + n), "student", Stop.END, "", "")]
    if guided:
        turns.append(Turn((2 + n, 2 + n), (2 + n, 2 + n + extra), "teacher", Stop.END, "", ""))
    logprobs = np.array([np.nan] * 2 + sampler + [np.nan] * extra, dtype=np.float32)
    tokens = np.arange(3, 3 + len(logprobs), dtype=np.int32)
    trajectory = Trajectory(id, "env", {}, 0, tokens, logprobs, turns, Outcome.TERMINATED, True, 1.0)
    at = trajectory.action_positions()
    trajectory.scores = Scores(
        at,
        np.full(len(at), -1.0, dtype=np.float32),
        top_ids=np.tile(np.arange(64, dtype=np.int32), (len(at), 1)),
        top_lt=np.full((len(at), 64), -math.log(64), dtype=np.float32),
    )
    return trajectory


def corrected(config, trainer, method=OPD, **kinds):
    sampled = [played([-1.0, -1.0, -1.0, -1.0], **kinds)]
    logprobs = sampled[0].logprobs.copy()
    logprobs[2:6] = trainer
    seen = [dataclasses.replace(sampled[0], logprobs=logprobs)]
    credit = assign_credit(pad_scored(seen), method)
    return credit, *correct(World(), credit, method, sampled, seen, config)


RATIOS = [-1.0, -1.0 + math.log(1.5), -1.0 + math.log(9.0), -1.0 - math.log(9.0)]


def test_truncation_weighs_and_a_mask_drops_on_both_sides():
    before, after, figures = corrected(TRUNCATE, RATIOS)
    assert torch.allclose(after.policy_weight[0, 2:6], before.policy_weight[0, 2:6] * torch.tensor([1, 1.5, 2, 1 / 9]))
    assert figures["correction_rho"] == pytest.approx((1 + 1.5 + 9 + 1 / 9) / 4, rel=1e-5)
    assert figures["correction_share"] == 0.25
    assert figures["correction_gap"] == pytest.approx((math.log(1.5) + 2 * math.log(9)) / 4, rel=1e-5)
    before, after, figures = corrected(MASK, RATIOS)
    assert after.policy_weight[0, 2:6].tolist() == [1, 1, 0, 0] and figures["correction_share"] == 0.5


def test_what_was_not_sampled_by_the_student_is_left_alone():
    before, after, _ = corrected(TRUNCATE, RATIOS, guided=True)
    assert torch.equal(after.imitation_weight, before.imitation_weight)
    assert not after.policy_weight[0, :2].any() and not after.policy_weight[0, 6:].any()
    assert torch.equal(after.normaliser_weight, before.normaliser_weight)  # what is masked stays in the mean


def test_forward_kl_is_exact_and_takes_no_ratio_but_a_mask():
    method = PRESETS["fkl"].config
    before, after, _ = corrected(TRUNCATE, RATIOS, method)
    assert before.forward_kl_weight.sum() == 4 and torch.equal(after.forward_kl_weight, before.forward_kl_weight)
    _, after, _ = corrected(MASK, RATIOS, method)
    assert after.forward_kl_weight[0, 2:6].tolist() == [1, 1, 0, 0]
    scored = dataclasses.replace(method, outlier=dataclasses.replace(method.outlier, gradient="score"))
    _, after, _ = corrected(TRUNCATE, RATIOS, scored)
    assert after.forward_kl_weight[0, 2:6].tolist() == pytest.approx([1, 1.5, 2, 1 / 9])


def test_without_a_correction_nothing_is_computed_or_changed():
    before, after, figures = corrected(CorrectionConfig(), RATIOS)
    assert after is before and figures == {}
    trajectories = [played([-1.0])]
    none = LearnerConfig(lr=1.0)
    assert seen_by_trainer(None, trajectories, none) is trajectories  # type: ignore[arg-type]


def test_a_token_whose_probability_is_not_known_is_no_figure_and_gets_no_weight():
    sampled = [played([-1.0, math.nan, -math.inf])]
    seen = [dataclasses.replace(sampled[0], logprobs=sampled[0].logprobs.copy())]
    credit = assign_credit(pad_scored(seen), OPD)
    after, figures = correct(World(), credit, OPD, sampled, seen, MASK)
    assert after.policy_weight[0].tolist() == [0, 0, 1, 0, 0]
    assert figures == {"correction_rho": 1.0, "correction_share": 0.0, "correction_gap": 0.0}


def test_the_trainer_sees_its_own_log_probabilities(make_lm):
    """An engine with other weights: the trainer's are those of a plain score, the sampler's stay where they were."""
    lm: LanguageModel = make_lm(0)
    sampled = [played([-1.0, -2.0, math.nan], guided=True), played([-0.5], id=1)]
    kept = copy.deepcopy([t.logprobs for t in sampled])
    seen = seen_by_trainer(lm, sampled, LearnerConfig(lr=1.0, correction="truncate"))
    for before, after, logprobs in zip(sampled, seen, kept, strict=True):
        np.testing.assert_array_equal(before.logprobs, logprobs)
        at = np.flatnonzero(np.isfinite(logprobs))
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(after.logprobs)), at)
        np.testing.assert_allclose(after.logprobs[at], score_tokens(lm, [before.tokens], [at])[0].lt, atol=1e-5)
        assert after.scores is before.scores
