"""Occupancy: would the teacher ever have been here?

The probability of a history is a product of action probabilities and of the environment's own transitions. The latter
are the same for student and teacher, so they cancel in the ratio, and the sum of `lt - ls` over the action tokens so
far *is* the log ratio of how often the two reach this history. Tokens the teacher wrote were not sampled by the
student: the policy that really acted and the teacher agree on them, so they add 0.

Invariant: the weight of turn k depends on turns j < k only, so the turn that spends the budget keeps full weight: it
holds the correction.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import OccupancyRule
from trpd_agents.credit.divergence import Turns


def log_reach(log_ratio: torch.Tensor, forget: float) -> torch.Tensor:
    """Log ratio of reaching turn k, `[B, K]` nats: `r_0 = 0`, `r_{k+1} = forget * r_k + log_ratio_k`.

    The plain sum (forget 1) drifts down at the rate of the KL, which a factor below 1 bounds.
    """
    reach = torch.zeros_like(log_ratio)
    for k in range(1, log_ratio.shape[1]):
        reach[:, k] = forget * reach[:, k - 1] + log_ratio[:, k - 1]
    return reach


def occupancy(rule: OccupancyRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: `min(1, exp(budget + reach))`, or its 0/1 version."""
    margin = log_reach(turns.log_ratio, rule.forget) + rule.budget
    weight = margin >= 0 if rule.form == "hard" else torch.exp(margin.clamp(max=0.0))
    return weight.to(torch.float32)
