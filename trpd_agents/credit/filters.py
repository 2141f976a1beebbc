"""Trajectory filters: which trajectories count at all.

Invariant: one yes or no per trajectory, from that trajectory alone. A trajectory filtered out keeps no weight in any
stream; its tokens stay in the normaliser like all masked ones.
"""

from __future__ import annotations

from typing import assert_never

import torch

from trpd_agents.credit.config import Filter, MaxDivergenceFilter, NoFilter, RewardAlignedFilter
from trpd_agents.credit.divergence import Turns


def trajectory_weight(
    chosen: Filter, turns: Turns, success: torch.Tensor | None, available: torch.Tensor
) -> torch.Tensor:
    """bool `[B]`: does the trajectory count? `success` bool `[B]` are the outcomes.

    One without a teacher (`available` bool `[B]` is false) passes: there is nothing to judge it by. Raises ValueError
    when the filter needs the outcome of any other and `success` is None.
    """
    match chosen:
        case NoFilter():
            return torch.ones(turns.counts.shape[0], dtype=torch.bool, device=turns.counts.device)
        case MaxDivergenceFilter(threshold=threshold):
            return ~(turns.counts & (turns.divergence > threshold)).any(1)
        case RewardAlignedFilter():
            if not bool(available.any()):
                return torch.ones_like(available)
            if success is None:
                raise ValueError(
                    "filter 'reward_aligned' needs the outcome of every trajectory, found a batch without success (or "
                    "with a trajectory whose success is None); give success, or choose filter 'none'"
                )
            favour = turns.log_ratio.sum(1)
            return torch.where(success, favour >= 0, favour <= 0) | ~available
    assert_never(chosen)
