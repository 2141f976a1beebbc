"""Hysteresis: one divergent turn leads outside, only a row of agreeing ones leads back.

Agreement on a bad history may be false: a lost student can write what a teacher would write there. So returning asks
for more than leaving: a lower threshold, several turns, and (with `evidence`) an environment that accepted those
actions and was not merely asked the same again.

Invariant: the weight of turn k depends on turns j < k only, so the first divergent turn keeps full weight; a return
never happens on a turn that the environment rejected or that repeats the one before, when evidence is asked for; a
divergence between `leave` and `enter` never leads back inside, nor outside.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import HysteresisRule
from trpd_agents.credit.divergence import Turns


def hysteresis(rule: HysteresisRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: 1 inside, `outside_weight` outside.

    A turn that does not count neither agrees nor diverges; without evidence from the environment, where that is asked
    for, it still breaks the row.
    """
    B, K = turns.counts.shape
    device = turns.counts.device
    outside = torch.zeros(B, dtype=torch.bool, device=device)
    row = torch.zeros(B, dtype=torch.int64, device=device)
    weight = torch.ones(B, K, dtype=torch.float32, device=device)
    for k in range(K):
        weight[:, k] = torch.where(outside, rule.outside_weight, 1.0)
        counts = turns.counts[:, k]
        believed = turns.ok[:, k] & ~turns.repeat[:, k] if rule.evidence else torch.ones_like(counts)
        agrees = counts & (turns.divergence[:, k] <= rule.leave) & believed
        breaks = (counts & ~agrees) | ~believed
        row = torch.where(outside & ~breaks, row + agrees, 0)
        returns = outside & (row >= rule.patience)
        leaves = ~outside & counts & (turns.divergence[:, k] > rule.enter)
        outside = (outside & ~returns) | leaves
    return weight
