"""What the loss sums are divided by, as figures that add up over any split of the global batch.

Invariant: nothing here is a quotient of batch totals; those are the learner's, which alone sees all ranks. It gives
each KL weight the factor `(1 - turn_share) + turn_share * turn_unit * N / N_turns` and divides by `N`, where `N` and
`N_turns` are the sums of `normaliser_weight` and `turn_unit` over the global batch.
"""

from __future__ import annotations

from typing import assert_never

import torch

from trpd_agents.credit.config import ActionTokensNormaliser, KeptTokensNormaliser, Normaliser, TurnMeanNormaliser
from trpd_agents.credit.divergence import TurnTokens


def normaliser_weight(normaliser: Normaliser, action: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """float32 `[B, T]`: what each token adds to `N`, from the bool `[B, T]` action tokens and those that keep a KL
    weight."""
    match normaliser:
        case ActionTokensNormaliser() | TurnMeanNormaliser():
            return action.to(torch.float32)
        case KeptTokensNormaliser():
            return (action & kept).to(torch.float32)
    assert_never(normaliser)


def turn_unit(action: torch.Tensor, turn: torch.Tensor, n_turns: int) -> torch.Tensor:
    """float32 `[B, T]`: one over the number of action tokens of the token's turn, 0 on other tokens. It sums to the
    number of turns that have any."""
    ones = torch.ones(action.shape, dtype=torch.float64, device=action.device)
    count = TurnTokens(ones, ones, turn, action, n_turns).count()
    per_token = torch.nn.functional.pad(count, (0, 1)).gather(1, torch.where(action, turn, n_turns))
    return torch.where(action, 1 / per_token.clamp(min=1), 0).to(torch.float32)


def turn_share(normaliser: Normaliser) -> float:
    """How much of the mean is the mean over turns of their token means (TurnOPD, 2607.05804)."""
    return normaliser.share if isinstance(normaliser, TurnMeanNormaliser) else 0.0
