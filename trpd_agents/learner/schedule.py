"""How the learning rate moves over a run.

Invariant: a function of the optimiser steps taken and of how much of the run is done. How many steps the whole run will
have need not be known, so a run may be measured in environment steps as well as in updates.
"""

from __future__ import annotations

import math

from trpd_agents.config import LearnerConfig


def schedule_factor(config: LearnerConfig, steps: int, progress: float) -> float:
    """What `config.lr` is multiplied by: linear warm-up over the first `warmup_steps` optimiser steps, then decay.

    Args:
        steps: optimiser steps taken before this one.
        progress: share of the whole run that is done, 0 to 1; the decay reaches 0 at 1.

    Raises:
        ValueError: `progress` is no such share.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: found {progress}, wanted the share of the run that is done, from 0 to 1")
    if steps < config.warmup_steps:
        return (steps + 1) / config.warmup_steps
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
