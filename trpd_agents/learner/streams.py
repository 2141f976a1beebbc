"""The three loss streams: reverse KL, forward KL on the teacher's top tokens, imitation of teacher-written tokens.

Invariant: this module knows weights, not methods. Every stream is a sum over positions divided by a denominator of the
whole global batch, so adding the losses of any split into micro-batches or ranks gives the same figure and gradient,
and masking never inflates what is left. A position with weight 0 in a stream contributes exactly 0 to it and to its
gradient, whatever is stored there; with all weights 0 the loss is a finite zero that is still attached to the graph.

Losses are named by the gradient they produce. All of them are differentiated directly through the student's logits,
with two exceptions that are policy gradients, a detached score on the sampled token: the sampled reverse KL, for which
`E_S[d * grad log pi_S] = -grad KL(S || T)`, and the forward KL with `gradient: score`, whose value pushes the sampled
token down. That push says nothing about which token would be better, and where the weight does not depend on the
sampled token its expectation is zero.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import Estimator, ForwardKL, SampledEstimator, TopKEstimator
from trpd_agents.learner.divergences import forward_kl, reverse_kl

MAX_LOG_RATIO = 20.0
"""Nats: the importance ratio is read no higher than this, so it cannot overflow."""


def clipped_ratio(
    ls_now: torch.Tensor, ls_old: torch.Tensor, score: torch.Tensor, clip_ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Importance ratio `pi_now / pi_sampling` where PPO's clipped objective has a gradient, 0 where it has none; `[n]`
    each.

    The second result says where it was clipped: the ratio has already moved beyond `1 +- clip_ratio` in the direction
    in which the score pushes (Schulman et al., 1707.06347).
    """
    ratio = (ls_now.detach() - ls_old).clamp(max=MAX_LOG_RATIO).exp()
    clipped = torch.where(score >= 0, ratio > 1 + clip_ratio, ratio < 1 - clip_ratio)
    return torch.where(clipped, 0, ratio), clipped


def stream_losses(
    logits: torch.Tensor,
    token: torch.Tensor,
    ls_old: torch.Tensor,
    policy_weight: torch.Tensor,
    score: torch.Tensor,
    forward_kl_weight: torch.Tensor,
    imitation_weight: torch.Tensor,
    *,
    estimator: Estimator,
    normaliser: float,
    guided_normaliser: float,
    forward: ForwardKL | None = None,
    top_ids: torch.Tensor | None = None,
    top_lt: torch.Tensor | None = None,
    teacher_logprobs: torch.Tensor | None = None,
    clip_ratio: float | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of n positions, a scalar to be added over micro-batches, and detached sums for reporting.

    `logits` `[n, V]` are the student's at temperature 1 (float32 or float64 are kept, anything smaller is widened);
    `token` `[n]` what was sampled there and `ls_old` `[n]` its log-probability at sampling time. The weights and the
    `score` (nats) are those of `Credit`. `normaliser` divides the two KL streams and `guided_normaliser` the imitation;
    both are of the global batch. `forward` says how forward KL is taken; it reads the first `top_k` of `top_ids` and
    `top_lt` `[n, k]`. `teacher_logprobs` `[n, V]` are for the exact estimators.

    `clip_ratio` None takes the importance ratio as exactly 1, right for the first update on fresh data; a number
    corrects what has a detached score by the ratio, PPO-clipped. What is exact at each position takes no ratio.

    Sums: `policy_weight`, `reverse_kl` (weighted, nats; its mean is their quotient), `clipped` (tokens of the sampled
    reverse KL), `forward_kl_weight`, `forward_kl` (weighted, the value however it is differentiated), `imitated`
    (tokens), `imitation_nll` (unweighted, nats), `loss` (as returned).

    Raises ValueError when something that the estimator or a weight needs is missing, or vocabularies differ.
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    dtype = logits.dtype
    on_policy, on_forward, on_imitation = (w != 0 for w in (policy_weight, forward_kl_weight, imitation_weight))
    any_forward = bool(on_forward.any())
    sampled = isinstance(estimator, SampledEstimator)
    sums: dict[str, torch.Tensor] = {}

    # exact reverse KL alone never needs the normaliser of the softmax by itself
    log_z = ls_now = None
    if sampled or any_forward or bool(on_imitation.any()):
        log_z = torch.logsumexp(logits, dim=-1)
        known = torch.where(on_policy | on_forward | on_imitation, token, 0)
        ls_now = logits.gather(1, known[:, None])[:, 0] - log_z

    def pushed(weight: torch.Tensor, value: torch.Tensor, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss `[n]` whose descent moves the sampled token's log-probability by `weight * value`, and where not."""
        assert ls_now is not None
        value, clipped = value.detach(), torch.zeros_like(where)
        if clip_ratio is not None:
            ratio, clipped = clipped_ratio(ls_now, ls_old.to(dtype), value, clip_ratio)
            value = ratio * value
        return -_weighted(weight * value, ls_now, where), clipped & where

    if sampled:
        advantage = score.to(dtype)
        per_token, clipped = pushed(policy_weight, advantage, on_policy)
        sums["reverse_kl"] = -_weighted(policy_weight, advantage, on_policy).sum()
        sums["clipped"] = clipped.sum().to(dtype)
    else:
        _check_distribution(teacher_logprobs, logits, estimator.kind)
        assert teacher_logprobs is not None
        top_k = estimator.top_k if isinstance(estimator, TopKEstimator) else None
        exact = reverse_kl(logits, teacher_logprobs, on_policy, top_k)
        per_token = _weighted(policy_weight, exact, on_policy)
        sums["reverse_kl"] = per_token.sum().detach()
        sums["clipped"] = torch.zeros_like(sums["reverse_kl"])

    loss = per_token.sum() / max(normaliser, 1.0)
    sums["policy_weight"] = policy_weight.to(dtype).sum()
    sums["forward_kl_weight"] = forward_kl_weight.to(dtype).sum()
    sums["imitated"] = on_imitation.sum().to(dtype)
    sums["forward_kl"] = sums["imitation_nll"] = torch.zeros_like(loss.detach())

    if any_forward:
        if forward is None or top_ids is None or top_lt is None:
            raise ValueError(
                "forward_kl_weight is not 0 everywhere, but forward, top_ids or top_lt is None: pass how forward KL is "
                "taken and the teacher's top tokens"
            )
        assert log_z is not None
        top_ids, top_lt = top_ids[:, : forward.top_k], top_lt[:, : forward.top_k]
        student_top = logits.gather(1, torch.where(on_forward[:, None], top_ids, 0)) - log_z[:, None]
        teacher_top = torch.where(on_forward[:, None], top_lt, -torch.inf).to(dtype)
        kl = forward_kl(student_top, teacher_top, tail=forward.tail, renormalise=forward.renormalise)
        per_token = _weighted(forward_kl_weight, kl, on_forward)
        sums["forward_kl"] = per_token.sum().detach()
        if forward.gradient == "score":
            per_token, _ = pushed(forward_kl_weight, -kl, on_forward)
        loss = loss + per_token.sum() / max(normaliser, 1.0)

    if ls_now is not None:
        loss = loss - _weighted(imitation_weight, ls_now, on_imitation).sum() / max(guided_normaliser, 1.0)
        sums["imitation_nll"] = -torch.where(on_imitation, ls_now, 0).sum().detach()

    sums["loss"] = loss.detach()
    return loss, sums


def _check_distribution(teacher_logprobs: torch.Tensor | None, logits: torch.Tensor, estimator: str) -> None:
    if teacher_logprobs is None:
        raise ValueError(f"estimator {estimator!r} needs teacher_logprobs [n, V], found None")
    if teacher_logprobs.shape != logits.shape:
        raise ValueError(
            f"teacher_logprobs: found shape {tuple(teacher_logprobs.shape)}, wanted {tuple(logits.shape)} like the "
            "student's logits: the two must share one vocabulary"
        )


def _weighted(weight: torch.Tensor, value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """`weight * value` where chosen, else exactly 0 with gradient 0; the weight carries no gradient."""
    safe = torch.where(where, weight, 0).detach().to(value.dtype)
    return safe * torch.where(where, value, 0)
