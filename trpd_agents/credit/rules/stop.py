"""Stop: after the first divergent turn the rest of the trajectory is not believed.

Invariant: the weight of turn k depends on turns j < k only, so the first divergent turn keeps full weight: it holds the
correction; once outside, always outside.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import StopRule
from trpd_agents.credit.divergence import Turns


def stop(rule: StopRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: 1 up to the first turn with `D > enter`, `outside_weight` after it (STRIDE
    2609.14636, Prune-OPD 2605.07804)."""
    diverges = turns.counts & (turns.divergence > rule.enter)
    earlier = diverges.to(torch.int64).cumsum(1) - diverges.to(torch.int64)
    return torch.where(earlier > 0, rule.outside_weight, 1.0).to(torch.float32)
