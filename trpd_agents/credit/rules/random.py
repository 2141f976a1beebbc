"""Random: keep a share of the turns, drawn blindly. The control that any other mask has to beat.

Invariant: the draw is a function of (seed, step, trajectory, turn) and of nothing that happened, and the same turn is
kept at every share above one at which it is kept.
"""

from __future__ import annotations

import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.credit.config import RandomRule
from trpd_agents.credit.divergence import Turns

_STREAM = 1  # one key more than the token gate uses, so that the two never draw the same number


def random_mask(rule: RandomRule, turns: Turns, trajectory_id: torch.Tensor, step: int, seed: int) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: 1 with probability `share`, else 0. `trajectory_id` int64 `[B]`."""
    k = torch.arange(turns.counts.shape[1], device=turns.counts.device)
    return (uniform(seed, step, trajectory_id[:, None], k[None, :], _STREAM) < rule.share).to(torch.float32)
