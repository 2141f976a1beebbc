"""Guidance: how many of an episode's first turns the teacher plays, from all of them at the start to none at the
end."""

from __future__ import annotations

import math
from typing import assert_never

from trpd_agents.credit.config import Guidance, NoGuidance, PrefixGuidance


def prefix_share(step: int, total_steps: int) -> float:
    """Share of the teacher's turns it plays itself at `step`: `(1 + cos(pi * step / total_steps)) / 2` (2606.01249).

    1 at step 0, 0 at `total_steps` and after. Raises ValueError for `total_steps < 1` or `step < 0`.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps: found {total_steps}, wanted at least 1")
    if step < 0:
        raise ValueError(f"step: found {step}, wanted at least 0")
    return (1 + math.cos(math.pi * min(step / total_steps, 1.0))) / 2


def guided_turns(guidance: Guidance, step: int, total_steps: int) -> int:
    """Turns the teacher plays at the beginning of every episode of this step."""
    match guidance:
        case NoGuidance():
            return 0
        case PrefixGuidance(turns=turns):
            return math.floor(prefix_share(step, total_steps) * turns)
    assert_never(guidance)


def imitation_weight(guidance: Guidance) -> float:
    """Weight of the negative log-likelihood of a token the teacher wrote."""
    match guidance:
        case NoGuidance():
            return 0.0
        case PrefixGuidance(beta=beta):
            return beta
    assert_never(guidance)
