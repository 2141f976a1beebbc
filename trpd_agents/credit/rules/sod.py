"""SOD: a turn weighs less the further it diverges, compared with the trajectory's first turn (2605.07725).

The paper multiplies ratios of adjacent turns, `(D_{j-1} + eps) / (D_j + eps)`; the product telescopes to the first
turn over this one, which is what is computed here, bounded above.

Invariant: weights lie in [0, 1 + delta]. The weight of turn k depends on turns j <= k: on the turn itself, and on the
first that counts; nothing later reaches back. A turn that does not count has weight 1 and is never the first.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import SodRule
from trpd_agents.credit.divergence import Turns


def sod(rule: SodRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: `min((D_1 + eps) / (D_k + eps), 1 + delta)`.

    The paper's D is `abs`; here it is the configured divergence, and where that can be negative (`k1`, `max`) it is
    read as 0.
    """
    if turns.counts.shape[1] == 0:
        return torch.ones_like(turns.divergence)
    divergence = turns.divergence.to(torch.float64).clamp(min=0) + rule.eps
    first = divergence.gather(1, turns.counts.to(torch.int8).argmax(1, keepdim=True))
    weight = (first / divergence).clamp(max=1 + rule.delta)
    return torch.where(turns.counts, weight, 1.0).to(torch.float32)
