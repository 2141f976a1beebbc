"""Outliers: what the part of a token that the gate does not trust contributes instead.

Invariant: with trust 1 the policy part is plain reverse KL (weight 1, score d), whichever branch is chosen; and so is
the whole, but for `entropy`, which adds forward KL by the teacher's own doubt, trusted or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch

from trpd_agents.credit.config import (
    ClipOutliers,
    EntropyOutliers,
    ForwardKL,
    ForwardKLOutliers,
    MaskOutliers,
    Outlier,
    ProximalOutliers,
)


@dataclass(frozen=True)
class TokenCredit:
    """Per-token result before turn weights, all `[B, T]`."""

    policy_weight: torch.Tensor
    score: torch.Tensor  # nats
    forward_kl_weight: torch.Tensor


def handle_outliers(
    outlier: Outlier,
    d: torch.Tensor,
    trusted: torch.Tensor,
    scorable: torch.Tensor,
    top_usable: torch.Tensor,
    undecided: torch.Tensor,
) -> TokenCredit:
    """Split each token between the loss streams.

    `d` (nats, finite) and `trusted` (in [0, 1]) are `[B, T]`. Where `scorable` is false the reverse KL is not available
    and the whole token is an outlier whose score cannot be bounded. Where `top_usable` is false there is no forward KL
    either. `undecided` says where `entropy` asks for forward KL.
    """
    trusted = torch.where(scorable, trusted, 0)
    none = torch.zeros_like(d)
    match outlier:
        case MaskOutliers():
            return TokenCredit(trusted, d, none)
        case ClipOutliers() | ProximalOutliers():
            bounded = torch.where(trusted == 1, d, trusted * d + (1 - trusted) * bounded_score(outlier, d))
            return TokenCredit(scorable.to(d.dtype), torch.where(scorable, bounded, d), none)
        case ForwardKLOutliers():
            return TokenCredit(trusted, d, torch.where(top_usable, 1 - trusted, 0))
        case EntropyOutliers():
            return TokenCredit(trusted, d, (top_usable & undecided).to(d.dtype))
    assert_never(outlier)


def bounded_score(outlier: ClipOutliers | ProximalOutliers, d: torch.Tensor) -> torch.Tensor:
    """The score of a rejected token, nats like `d` `[B, T]`: bounded below, however far the teacher is away.

    `clip`: `max(d, floor)` (REOPOLD, 2603.11137). `proximal`: `log(mix * rho + 1 - mix)`, the log ratio to a mixture of
    teacher and student, over `mix` when `scaled` (TOP-D, 2607.04751).
    """
    match outlier:
        case ClipOutliers(floor=floor):
            return d.clamp(min=floor)
        case ProximalOutliers(mix=mix, scaled=scaled):
            # adding in logs: rho itself overflows where the teacher likes a token far better
            score = torch.logaddexp(d + math.log(mix), torch.full_like(d, math.log1p(-mix)))
            return score / mix if scaled else score
    assert_never(outlier)


def top_tokens_usable(forward_kl: ForwardKL | None, top_lt: torch.Tensor | None, usable: torch.Tensor) -> torch.Tensor:
    """bool `[B, T]`: can forward KL be computed from the teacher's top tokens `top_lt` `[B, T, k]` (nats)?

    `-inf` entries are tokens the teacher rules out and add nothing; NaN, or nothing but `-inf`, is not a distribution.
    `usable` bool `[B, T]` are the tokens it could be wanted for. Raises ValueError when forward KL is asked for and a
    batch with such tokens has no top tokens, or fewer than asked for.
    """
    if forward_kl is None or not bool(usable.any()):
        return torch.zeros_like(usable)
    if top_lt is None:
        raise ValueError(
            f"outlier {forward_kl.kind!r} needs the teacher's most likely tokens, found a batch without top_ids and "
            f"top_lt; score the trajectories with top_k={forward_kl.top_k}"
        )
    if top_lt.shape[-1] < forward_kl.top_k:
        raise ValueError(
            f"outlier {forward_kl.kind!r}: found {top_lt.shape[-1]} of the teacher's most likely tokens stored at each "
            f"position, wanted top_k={forward_kl.top_k}; set outlier.top_k to {top_lt.shape[-1]} or less, or score the "
            f"trajectories with top_k={forward_kl.top_k}"
        )
    top_lt = top_lt[..., : forward_kl.top_k]
    broken = torch.isnan(top_lt) | torch.isposinf(top_lt)
    return ~broken.any(-1) & torch.isfinite(top_lt).any(-1)


def teacher_undecided(outlier: Outlier, entropy: torch.Tensor | None, usable: torch.Tensor) -> torch.Tensor:
    """bool `[B, T]`: where the teacher's `entropy` `[B, T]` (nats) asks for forward KL; NaN asks for nothing.

    Raises ValueError when it is needed for any `usable` `[B, T]` token and missing.
    """
    if not isinstance(outlier, EntropyOutliers) or not bool(usable.any()):
        return torch.zeros_like(usable)
    if entropy is None:
        raise ValueError(
            "outlier 'entropy' needs the teacher's entropy at every action token, found a batch without entropy; score "
            "the trajectories with a teacher that returns it, or choose outlier 'forward_kl'"
        )
    return usable & (entropy > outlier.threshold)
