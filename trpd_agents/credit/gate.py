"""The token gate: how much of each token's reverse KL is trusted.

Invariant: the result lies in [0, 1], is 1 where the teacher likes the token at least as much as the student does
(unless the gate is closed), and under the same random numbers never falls when the slack grows.
"""

from __future__ import annotations

from typing import assert_never

import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.credit.config import BernoulliGate, ClosedGate, Gate, OffGate, SoftGate, ThresholdGate


def acceptance(d: torch.Tensor, slack: float = 0.0) -> torch.Tensor:
    """`exp(min(d + slack, 0))`; with slack 0 its mean under the student is one minus the total variation to the
    teacher."""
    return torch.exp((d + slack).clamp(max=0.0))


def trust(
    gate: Gate, d: torch.Tensor, trajectory_id: torch.Tensor, ordinal: torch.Tensor, step: int, seed: int
) -> torch.Tensor:
    """Trust `M` in [0, 1], like `d` `[B, T]` (finite, nats).

    `trajectory_id` `[B]` and `ordinal` `[B, T]` (the token's number among its trajectory's action tokens, so that
    padding moves nothing) name the random number of each token.
    """
    match gate:
        case OffGate():
            return torch.ones_like(d)
        case ClosedGate():
            return torch.zeros_like(d)
        case BernoulliGate(slack=slack):
            return (uniform(seed, step, trajectory_id[:, None], ordinal) < acceptance(d, slack)).to(d.dtype)
        case SoftGate(slack=slack):
            return acceptance(d, slack)
        case ThresholdGate(slack=slack):
            return (d >= -slack).to(d.dtype)
    assert_never(gate)
