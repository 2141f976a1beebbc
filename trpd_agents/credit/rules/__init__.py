"""Trajectory rules: from per-turn figures to turn weights. One file per rule; this one only chooses."""

from __future__ import annotations

from typing import assert_never

import torch

from trpd_agents.credit.config import HysteresisRule, NoRule, OccupancyRule, Rule
from trpd_agents.credit.divergence import Turns
from trpd_agents.credit.rules.hysteresis import hysteresis
from trpd_agents.credit.rules.occupancy import occupancy


def turn_weights(rule: Rule, turns: Turns) -> torch.Tensor:
    """Weights in [0, 1], float32 `[B, K]`."""
    match rule:
        case NoRule():
            return torch.ones(turns.counts.shape, dtype=torch.float32, device=turns.counts.device)
        case OccupancyRule():
            return occupancy(rule, turns)
        case HysteresisRule():
            return hysteresis(rule, turns)
    assert_never(rule)
