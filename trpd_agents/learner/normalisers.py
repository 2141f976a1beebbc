"""What the loss streams' sums are divided by.

Invariant: all of it is summed over the whole global (mini-)batch, so neither micro-batches nor the number of ranks
matter, and repeating every trajectory changes no quotient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trpd_agents.credit import Credit
from trpd_agents.distributed import World
from trpd_agents.trajectory import Trajectory


@dataclass(frozen=True)
class Normalisers:
    """Totals of one optimiser step's trajectories on all ranks."""

    tokens: float  # N: divides the two KL streams
    turns: float
    turn_share: float  # of the mean over turns of their token means in the mean over all tokens
    guided_tokens: float  # N_g: divides the imitation stream

    @classmethod
    def of(cls, world: World, trajectories: Sequence[Trajectory], credit: Credit, chosen: Sequence[int]) -> Normalisers:
        """Of the trajectories at the indices `chosen` on every rank. A meeting point: all ranks must call it."""
        rows = torch.tensor(list(chosen), dtype=torch.int64, device=credit.normaliser_weight.device)
        tokens, turns, guided_tokens = world.sum(
            float(credit.normaliser_weight[rows].sum(dtype=torch.float64)),
            float(credit.turn_unit[rows].sum(dtype=torch.float64)),
            float(sum(trajectories[b].authored("teacher").sum() for b in chosen)),
        )
        return cls(tokens, turns, credit.turn_share, guided_tokens)

    def rescale(self, weight: torch.Tensor, turn_unit: torch.Tensor) -> torch.Tensor:
        """Weights `[n]` of a KL stream such that their sum over N is the blend of the token mean and the turn mean."""
        if self.turn_share == 0 or self.turns == 0:
            return weight
        turn_mean = turn_unit * (self.tokens / self.turns)
        return weight * ((1 - self.turn_share) + self.turn_share * turn_mean)
