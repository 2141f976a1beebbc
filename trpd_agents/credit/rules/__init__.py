"""Trajectory rules: from per-turn figures to turn weights. One file per rule; this one only chooses."""

from __future__ import annotations

from typing import assert_never

import torch

from trpd_agents.credit.config import (
    HysteresisRule,
    LeakyRule,
    NoRule,
    OccupancyRule,
    PositionRule,
    RandomRule,
    Rule,
    SodRule,
    StopRule,
    TdurRule,
)
from trpd_agents.credit.divergence import Turns
from trpd_agents.credit.rules.hysteresis import hysteresis
from trpd_agents.credit.rules.leaky import leaky
from trpd_agents.credit.rules.occupancy import occupancy
from trpd_agents.credit.rules.position import position
from trpd_agents.credit.rules.random import random_mask
from trpd_agents.credit.rules.sod import sod
from trpd_agents.credit.rules.stop import stop
from trpd_agents.credit.rules.tdur import tdur
from trpd_agents.credit.rules.thresholds import fixed

__all__ = ["fixed", "turn_weights"]


def turn_weights(rule: Rule, turns: Turns, trajectory_id: torch.Tensor, step: int = 0, seed: int = 0) -> torch.Tensor:
    """Weights float32 `[B, K]`, in [0, 1] but for `sod`, which may go up to `1 + delta`.

    Thresholds are read as values: put a rule with quantiles through `fixed` first. `trajectory_id` int64 `[B]`, `step`
    and `seed` name the random numbers of the random mask; no other rule looks at them.
    """
    match rule:
        case NoRule():
            return torch.ones(turns.counts.shape, dtype=torch.float32, device=turns.counts.device)
        case StopRule():
            return stop(rule, turns)
        case LeakyRule():
            return leaky(rule, turns)
        case HysteresisRule():
            return hysteresis(rule, turns)
        case OccupancyRule():
            return occupancy(rule, turns)
        case SodRule():
            return sod(rule, turns)
        case TdurRule():
            return tdur(rule, turns)
        case PositionRule():
            return position(rule, turns)
        case RandomRule():
            return random_mask(rule, turns, trajectory_id, step, seed)
    assert_never(rule)
