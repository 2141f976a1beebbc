"""Position: later turns weigh less, whatever happened in them (after IW-OPD, 2606.22600).

Invariant: the weight of turn k is a function of k alone, and the first turn has 1.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import PositionRule
from trpd_agents.credit.divergence import Turns


def position(rule: PositionRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: `decay ** k`."""
    B, K = turns.counts.shape
    k = torch.arange(K, dtype=torch.float64, device=turns.counts.device)
    return (rule.decay**k).to(torch.float32).expand(B, K)
