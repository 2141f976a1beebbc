"""The three loss streams: reverse KL, forward KL on the teacher's top tokens, imitation of teacher-written tokens.

Invariant: this module knows weights, not methods. Every stream is a sum over positions divided by a denominator of the
whole global batch, so adding the losses of any split into micro-batches or ranks gives the same figure and gradient,
and masking never inflates what is left. A position with weight 0 in a stream contributes exactly 0 to it and to its
gradient, whatever is stored there; with all weights 0 the loss is a finite zero that is still attached to the graph.

Losses are named by the gradient they produce. All of them are differentiated directly through the student's logits,
except for the sampled reverse KL, whose score is detached: `E_S[d * grad log pi_S] = -grad KL(S || T)`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

LOG_PROB_FLOOR = -20.0
"""Nats: the full reverse KL reads the teacher's log-probabilities no lower than this, so ruled-out tokens stay
finite."""

TAIL_FLOOR = 1e-6
"""The tail bucket reads the student's mass outside the top tokens no lower than this: below, float32 sees only
rounding."""

MAX_LOG_RATIO = 20.0
"""Nats: the importance ratio is read no higher than this, so it cannot overflow."""


class _ReverseKL(torch.autograd.Function):
    """`KL(S || T)` per row `[n]` in nats, 0 in rows that are not active.

    The gradient by the logits, `p * (log p - log q - KL)`, is ready in the forward pass: keeping it alone costs one
    `[n, V]` instead of the three that composed operations would keep.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, teacher: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        # a token the student's own logits rule out has probability 0 and must add 0, not 0 * inf
        student = torch.log_softmax(logits, dim=-1).clamp_(min=torch.finfo(logits.dtype).min / 2)
        log_ratio = teacher.clamp(min=LOG_PROB_FLOOR).to(student.dtype)
        torch.sub(student, log_ratio, out=log_ratio)
        probability = student.exp_()
        kl = torch.linalg.vecdot(probability, log_ratio)
        if ctx.needs_input_grad[0]:
            gradient = log_ratio.sub_(kl[:, None]).mul_(probability)
            ctx.save_for_backward(gradient.masked_fill_(~active[:, None], 0.0))
        return torch.where(active, kl, 0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None], None, None


def reverse_kl(logits: torch.Tensor, teacher_logprobs: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Exact `KL(S || T)` `[n]`, nats, differentiable once by `logits` `[n, V]`; 0 where `active` `[n]` is false.

    `teacher_logprobs` `[n, V]` are normalised log-probabilities, read no lower than `LOG_PROB_FLOOR`.
    """
    return _ReverseKL.apply(logits, teacher_logprobs, active)


def forward_kl(student_top: torch.Tensor, top_lt: torch.Tensor, *, tail: bool) -> torch.Tensor:
    """`sum_v pi_T(v) (log pi_T(v) - log pi_S(v))` `[n]`, nats, over the teacher's top tokens.

    `student_top` and `top_lt` `[n, k]` are the log-probabilities of those tokens under student (with gradient) and
    teacher. Entries with `top_lt = -inf` are no part of the top tokens. Truncated, the sum is no KL and can be
    negative; `tail` adds the bucket of all other tokens, which makes it the KL between the two coarsened distributions.
    """
    listed = torch.isfinite(top_lt)
    p = torch.where(listed, top_lt, 0).exp()
    terms = torch.where(listed, p * (top_lt - torch.where(listed, student_top, 0)), 0)
    kl = terms.sum(-1)
    if tail:
        tail_t = (1 - torch.where(listed, p, 0).sum(-1)).clamp(min=0)
        tail_s = (1 - torch.where(listed, student_top.exp(), 0).sum(-1)).clamp(min=TAIL_FLOOR)
        kl = kl + torch.xlogy(tail_t, tail_t) - tail_t * tail_s.log()
    return kl


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
    estimator: Literal["sampled", "full"],
    normaliser: float,
    guided_normaliser: float,
    top_ids: torch.Tensor | None = None,
    top_lt: torch.Tensor | None = None,
    teacher_logprobs: torch.Tensor | None = None,
    tail: bool = False,
    clip_ratio: float | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of n positions, a scalar to be added over micro-batches, and detached sums for reporting.

    `logits` `[n, V]` are the student's at temperature 1 (float32 or float64 are kept, anything smaller is widened);
    `token` `[n]` what was sampled there and `ls_old` `[n]` its log-probability at sampling time. The weights and the
    `score` (nats) are those of `Credit`. `normaliser` is the number of action tokens of the global batch,
    `guided_normaliser` that of its guided tokens; masked tokens count in both. `top_ids`, `top_lt` `[n, k]` and `tail`
    are for forward KL, `teacher_logprobs` `[n, V]` for `estimator="full"`.

    `clip_ratio` None takes the importance ratio as exactly 1, right for the first update on fresh data; a number
    corrects the sampled reverse KL by the ratio, PPO-clipped. The full one is exact at each position and takes no
    ratio.

    Sums: `policy_weight`, `reverse_kl` (weighted, nats; its mean is their quotient), `clipped` (tokens),
    `forward_kl_weight`, `forward_kl` (weighted), `imitated` (tokens), `imitation_nll` (unweighted, nats), `loss` (as
    returned).

    Raises ValueError when a tensor that the estimator or a weight needs is missing, or vocabularies differ.
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    dtype = logits.dtype
    on_policy, on_forward, on_imitation = (w != 0 for w in (policy_weight, forward_kl_weight, imitation_weight))
    any_forward = bool(on_forward.any())
    sums: dict[str, torch.Tensor] = {}

    # full reverse KL alone never needs the normaliser of the softmax by itself
    log_z = ls_now = None
    if estimator == "sampled" or any_forward or bool(on_imitation.any()):
        log_z = torch.logsumexp(logits, dim=-1)
        known = torch.where(on_policy | on_imitation, token, 0)
        ls_now = logits.gather(1, known[:, None])[:, 0] - log_z

    if estimator == "full":
        if teacher_logprobs is None:
            raise ValueError("estimator 'full' needs teacher_logprobs [n, V], found None")
        if teacher_logprobs.shape != logits.shape:
            raise ValueError(
                f"teacher_logprobs: found shape {tuple(teacher_logprobs.shape)}, wanted {tuple(logits.shape)} like the "
                "student's logits: the two must share one vocabulary"
            )
        per_token = _weighted(policy_weight, reverse_kl(logits, teacher_logprobs, on_policy), on_policy)
        policy_loss = per_token.sum()
        sums["reverse_kl"] = policy_loss.detach()
        sums["clipped"] = torch.zeros_like(policy_loss.detach())
    else:
        assert ls_now is not None
        advantage = score.to(dtype)
        coefficient, clipped = advantage, torch.zeros_like(on_policy)
        if clip_ratio is not None:
            ratio, clipped = clipped_ratio(ls_now, ls_old.to(dtype), advantage, clip_ratio)
            coefficient = ratio * advantage
        policy_loss = -_weighted(policy_weight * coefficient, ls_now, on_policy).sum()
        sums["reverse_kl"] = -_weighted(policy_weight, advantage, on_policy).sum()
        sums["clipped"] = (clipped & on_policy).sum().to(dtype)

    loss = policy_loss / max(normaliser, 1.0)
    sums["policy_weight"] = policy_weight.to(dtype).sum()
    sums["forward_kl_weight"] = forward_kl_weight.to(dtype).sum()
    sums["imitated"] = on_imitation.sum().to(dtype)
    sums["forward_kl"] = sums["imitation_nll"] = torch.zeros_like(loss.detach())

    if any_forward:
        if top_ids is None or top_lt is None:
            raise ValueError(
                "forward_kl_weight is not 0 everywhere, but top_ids or top_lt is None: pass the teacher's top tokens"
            )
        assert log_z is not None
        student_top = logits.gather(1, torch.where(on_forward[:, None], top_ids, 0)) - log_z[:, None]
        teacher_top = torch.where(on_forward[:, None], top_lt, -torch.inf).to(dtype)
        kl = _weighted(forward_kl_weight, forward_kl(student_top, teacher_top, tail=tail), on_forward).sum()
        loss = loss + kl / max(normaliser, 1.0)
        sums["forward_kl"] = kl.detach()

    if ls_now is not None:
        loss = loss - _weighted(imitation_weight, ls_now, on_imitation).sum() / max(guided_normaliser, 1.0)
        sums["imitation_nll"] = -torch.where(on_imitation, ls_now, 0).sum().detach()

    sums["loss"] = loss.detach()
    return loss, sums


def _weighted(weight: torch.Tensor, value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """`weight * value` where chosen, else exactly 0 with gradient 0; the weight carries no gradient."""
    safe = torch.where(where, weight, 0).detach().to(value.dtype)
    return safe * torch.where(where, value, 0)
