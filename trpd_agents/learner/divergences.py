"""The two divergences of the loss streams, per position and in nats.

Invariant: each has exactly the gradient of the figure it returns, by the student's current distribution. Nothing that
stands for a distribution is detached: a detached sum over the top tokens, put as a score on the sampled token, has an
expected gradient of zero.
"""

from __future__ import annotations

from typing import Any

import torch

LOG_PROB_FLOOR = -20.0
"""Nats: the exact reverse KL reads the teacher's log-probabilities no lower than this, those of single tokens and that
of the bucket of all others, so ruled-out tokens stay finite."""

TAIL_FLOOR = 1e-6
"""The forward KL reads the student's mass outside the top tokens no lower than this: it is found by subtraction from 1,
and below float32 sees only rounding."""


class _ReverseKL(torch.autograd.Function):
    """`KL(S || T)` per row `[n]` between distributions over events, 0 in rows that are not active.

    With `r` the log ratio of the event a token belongs to, the gradient by that token's logit is `p * (r - KL)`, for
    single tokens as for a bucket of them. It is ready in the forward pass: keeping it alone costs one `[n, V]` instead
    of the three or more that composed operations would keep.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, teacher: torch.Tensor, active: torch.Tensor, top_k: int | None
    ) -> torch.Tensor:
        # a token the student's own logits rule out has probability 0 and must add 0, not 0 * inf
        student = torch.log_softmax(logits, dim=-1).clamp_(min=torch.finfo(logits.dtype).min / 2)
        log_ratio = teacher.clamp(min=LOG_PROB_FLOOR).to(student.dtype)
        torch.sub(student, log_ratio, out=log_ratio)
        probability = student.exp_()
        if top_k is not None and top_k < logits.shape[1]:
            ids = logits.topk(top_k, dim=-1).indices
            others_s = _mass_outside(probability, ids).clamp(min=torch.finfo(probability.dtype).tiny).log()
            others_t = _mass_outside(teacher.to(probability.dtype).exp(), ids).log().clamp(min=LOG_PROB_FLOOR)
            bucket = (others_s - others_t)[:, None].expand_as(log_ratio)
            log_ratio = bucket.scatter(1, ids, log_ratio.gather(1, ids))
        kl = torch.linalg.vecdot(probability, log_ratio)
        if ctx.needs_input_grad[0]:
            gradient = log_ratio.sub_(kl[:, None]).mul_(probability)
            ctx.save_for_backward(gradient.masked_fill_(~active[:, None], 0.0))
        return torch.where(active, kl, 0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None], None, None, None


def _mass_outside(probability: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """`[n]`: summed over what is left, because `1 - sum` would lose a small rest to rounding."""
    return probability.scatter(1, ids, 0.0).sum(-1)


def reverse_kl(
    logits: torch.Tensor, teacher_logprobs: torch.Tensor, active: torch.Tensor, top_k: int | None = None
) -> torch.Tensor:
    """`KL(S || T)` `[n]`, nats, differentiable once by `logits` `[n, V]`; 0 where `active` `[n]` is false.

    `teacher_logprobs` `[n, V]` are normalised log-probabilities, read no lower than `LOG_PROB_FLOOR`. With `top_k` it
    is the KL between the two distributions coarsened to the student's `top_k` most likely tokens and one bucket for all
    others: but for the floor never more than the exact one, and equal to it from `top_k = V - 1` on.
    """
    return _ReverseKL.apply(logits, teacher_logprobs, active, top_k)


def forward_kl(
    student_top: torch.Tensor, top_lt: torch.Tensor, *, tail: bool = False, renormalise: bool = False
) -> torch.Tensor:
    """`sum_v pi_T(v) (log pi_T(v) - log pi_S(v))` `[n]`, nats, over the teacher's top tokens.

    `student_top` and `top_lt` `[n, k]` are the log-probabilities of those tokens under student (with gradient) and
    teacher. Entries with `top_lt = -inf` are no part of the top tokens; without any the result is 0. Truncated, the sum
    is no KL and can be negative. `tail` adds the bucket of all other tokens, which makes it the KL between the two
    coarsened distributions; `renormalise` makes it the KL between the two given that the token is one of the top ones,
    which is blind to the mass they have together.
    """
    listed = torch.isfinite(top_lt)
    student = torch.where(listed, student_top, 0)
    if renormalise:
        # a row without listed tokens is given zeros: the gradient of a logsumexp over nothing but -inf is NaN
        out = torch.where(listed.any(-1, keepdim=True), -torch.inf, 0.0).to(student.dtype)
        student = student - torch.where(listed, student, out).logsumexp(-1, keepdim=True)
        top_lt = top_lt - torch.where(listed, top_lt, out).logsumexp(-1, keepdim=True)
    p = torch.where(listed, top_lt, 0).exp()
    kl = torch.where(listed, p * (top_lt - student), 0).sum(-1)
    if tail:
        tail_t = (1 - torch.where(listed, p, 0).sum(-1)).clamp(min=0)
        tail_s = (1 - torch.where(listed, student.exp(), 0).sum(-1)).clamp(min=TAIL_FLOOR)
        kl = kl + torch.xlogy(tail_t, tail_t) - tail_t * tail_s.log()
    return kl
