"""Trainer versus sampler: weights for tokens that an engine sampled whose probabilities are not quite the trainer's.

The sampler may compute in another precision or with other kernels, so its tokens follow a policy near the trained one,
not that policy itself. The ratio `rho = pi_trainer / pi_sampler` of a sampled token, both under the weights before the
update, repairs this where it is used as an importance weight. It has nothing to do with the ratio of teacher to student
that credit assignment looks at, nor with how far the student has moved within a batch: those two are computed from the
trainer's own log-probabilities, which `seen_by_trainer` puts in place of the sampler's, so that nothing is counted
twice.

`truncate` is truncated importance sampling (Ionides 2008; for language models Yao et al. 2025, "Your efficient RL
framework secretly brings you off-policy RL training"); `mask` drops tokens on both sides (IcePop, 2510.18855).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from trpd_agents.batching import pick_token_budget
from trpd_agents.config import LearnerConfig
from trpd_agents.config.correction import CorrectionConfig
from trpd_agents.credit import Credit, CreditConfig
from trpd_agents.distributed import World
from trpd_agents.models import LanguageModel
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Trajectory

MAX_LOG_RHO = 20.0
"""Nats: a ratio is read no higher than this, so that a mean of ratios stays finite."""


def seen_by_trainer(
    lm: LanguageModel, trajectories: Sequence[Trajectory], config: LearnerConfig
) -> Sequence[Trajectory]:
    """`trajectories` with the log-probabilities of the student's tokens as `lm` computes them, before the update.

    Where the sampler reported none that is finite, none is put in its place: what was done there is not known. Without
    a correction the sampler's are taken as the trainer's.
    """
    if config.correction.kind == "none":
        return trajectories
    positions = [np.flatnonzero(t.authored("student") & np.isfinite(t.logprobs)) for t in trajectories]
    budget = pick_token_budget(config.token_budget, lm.device)
    scores = score_tokens(lm, [t.tokens for t in trajectories], positions, token_budget=budget)
    seen = []
    for trajectory, at, score in zip(trajectories, positions, scores, strict=True):
        logprobs = np.full_like(trajectory.logprobs, np.nan)
        logprobs[at] = score.lt
        seen.append(dataclasses.replace(trajectory, logprobs=logprobs))
    return seen


def correction_factor(
    trainer: torch.Tensor, sampler: torch.Tensor, config: CorrectionConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """What to multiply a sampled token's weight with, and its `rho`; shapes are those of the arguments, in nats.

    A ratio is 1 where either log-probability is not finite; credit assignment leaves such tokens out.
    """
    gap = trainer.float() - sampler.float()
    rho = torch.where(gap.isfinite(), gap, 0).clamp(-MAX_LOG_RHO, MAX_LOG_RHO).exp()
    if config.kind == "truncate":
        return rho.clamp(max=config.limit), rho
    if config.kind == "mask":
        return ((rho <= config.limit) & (rho >= 1 / config.limit)).to(rho.dtype), rho
    return torch.ones_like(rho), rho


def correct(
    world: World,
    credit: Credit,
    method: CreditConfig,
    sampled: Sequence[Trajectory],
    seen: Sequence[Trajectory],
    config: CorrectionConfig,
) -> tuple[Credit, dict[str, float]]:
    """`credit` with its weights on the student's tokens corrected, and figures of all ranks' tokens.

    A mask is for all of a token's supervision. A ratio is for what a sampled token stands for others in: the sampled
    reverse KL, and forward KL as a score on that token. What is an exact expectation over the vocabulary needs none.

    Args:
        sampled: the trajectories of `credit`, row b the b-th, with the sampler's log-probabilities.
        seen: the same with the trainer's, from `seen_by_trainer`.

    Returns:
        The figures are empty without a correction, else `correction_rho` (its mean), `correction_share` (of tokens
        truncated or masked) and `correction_gap` (mean absolute log ratio, nats).
    """
    if config.kind == "none":
        return credit, {}
    trainer, sampler, action = (torch.zeros(credit.policy_weight.shape, dtype=torch.float32) for _ in range(3))
    for b, (before, after) in enumerate(zip(sampled, seen, strict=True)):
        n = len(before.tokens)
        own = before.authored("student") & np.isfinite(before.logprobs) & np.isfinite(after.logprobs)
        action[b, :n] = torch.from_numpy(own)
        sampler[b, :n] = torch.from_numpy(np.where(own, before.logprobs, 0))
        trainer[b, :n] = torch.from_numpy(np.where(own, after.logprobs, 0))
    own = action.bool()
    factor, rho = correction_factor(trainer, sampler, config)
    changed = factor == 0 if config.kind == "mask" else factor != rho
    apart = (trainer - sampler).abs()
    tokens, *sums = world.sum(*(float(v) for v in (own.sum(), rho[own].sum(), changed[own].sum(), apart[own].sum())))
    names = ("correction_rho", "correction_share", "correction_gap")
    figures = {name: value / max(tokens, 1.0) for name, value in zip(names, sums, strict=True)}
    factor = torch.where(own, factor, 1).to(credit.policy_weight.device)
    on_forward = config.kind == "mask" or (method.forward_kl is not None and method.forward_kl.gradient == "score")
    return dataclasses.replace(
        credit,
        policy_weight=torch.where(credit.policy_weight != 0, credit.policy_weight * factor, 0),
        forward_kl_weight=torch.where(credit.forward_kl_weight != 0, credit.forward_kl_weight * factor, 0)
        if on_forward
        else credit.forward_kl_weight,
    ), figures
