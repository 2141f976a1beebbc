"""Leaky: divergence beyond a threshold adds up, leaks away with every turn, and lowers the weight exponentially.

Invariant: the weight of turn k depends on turns j < k only and lies in [0, 1]; without divergence beyond `enter` it is
1.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import LeakyRule
from trpd_agents.credit.divergence import Turns


def leaky(rule: LeakyRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: `exp(-steepness * e_k)`, `e_0 = 0`, `e_{k+1} = leak * e_k + max(D_k - enter, 0)`.

    A turn that does not count adds nothing, but time passes: the sum leaks all the same.
    """
    excess = torch.where(turns.counts, (turns.divergence.to(torch.float64) - rule.enter).clamp(min=0), 0)
    level = torch.zeros_like(excess)
    for k in range(1, excess.shape[1]):
        level[:, k] = rule.leak * level[:, k - 1] + excess[:, k - 1]
    return torch.exp(-rule.steepness * level).to(torch.float32)
