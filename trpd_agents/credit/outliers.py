"""Outliers: what the part of a token that the gate does not trust contributes instead.

Invariant: with trust 1 the result is plain reverse KL (weight 1, score d, no forward KL), whichever branch is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch

from trpd_agents.credit.config import ClipOutliers, ForwardKLOutliers, MaskOutliers, Outlier


@dataclass(frozen=True)
class TokenCredit:
    """Per-token result before turn weights, all `[B, T]`."""

    policy_weight: torch.Tensor
    score: torch.Tensor  # nats
    forward_kl_weight: torch.Tensor


def handle_outliers(
    outlier: Outlier, d: torch.Tensor, trusted: torch.Tensor, scorable: torch.Tensor, top_usable: torch.Tensor
) -> TokenCredit:
    """Split each token between the loss streams.

    `d` (nats, finite) and `trusted` (in [0, 1]) are `[B, T]`. Where `scorable` is false the reverse KL is not available
    and the whole token is an outlier that cannot be clipped. Where `top_usable` is false there is no forward KL either.
    """
    trusted = torch.where(scorable, trusted, 0)
    match outlier:
        case MaskOutliers():
            return TokenCredit(trusted, d, torch.zeros_like(d))
        case ClipOutliers(floor=floor):
            clipped = torch.where(trusted == 1, d, trusted * d + (1 - trusted) * d.clamp(min=floor))
            return TokenCredit(scorable.to(d.dtype), torch.where(scorable, clipped, d), torch.zeros_like(d))
        case ForwardKLOutliers():
            return TokenCredit(trusted, d, torch.where(top_usable, 1 - trusted, 0))
    assert_never(outlier)


def top_tokens_usable(outlier: Outlier, top_lt: torch.Tensor | None, usable: torch.Tensor) -> torch.Tensor:
    """bool `[B, T]`: can forward KL be computed from the teacher's top tokens `top_lt` `[B, T, k]` (nats)?

    `-inf` entries are tokens the teacher rules out and add nothing; NaN, or nothing but `-inf`, is not a distribution.
    `usable` bool `[B, T]` are the tokens it could be wanted for. Raises ValueError when forward KL is asked for and a
    batch with such tokens has no top tokens.
    """
    if not isinstance(outlier, ForwardKLOutliers) or (top_lt is None and not bool(usable.any())):
        return torch.zeros_like(usable)
    if top_lt is None:
        raise ValueError(
            "outlier 'forward_kl' needs the teacher's most likely tokens, found a batch without top_ids and top_lt; "
            f"score the trajectories with top_k={outlier.top_k}"
        )
    top_lt = top_lt[..., : outlier.top_k]
    broken = torch.isnan(top_lt) | torch.isposinf(top_lt)
    return ~broken.any(-1) & torch.isfinite(top_lt).any(-1)
