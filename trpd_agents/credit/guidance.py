"""Guidance: which turns of an episode the teacher plays, and how much the student imitates them.

Invariant: a planned turn is a function of the configuration, the share of the run that is done, the run's seed and the
turn's own name (episode, turn) and of nothing else, so batching, ranks and resuming change nothing. `progress` is that
share: 0 at the first step, 1 when the budget is used up.
"""

from __future__ import annotations

import math
from typing import assert_never

from trpd_agents.counter_rng import uniform
from trpd_agents.credit.config import BernoulliGuidance, Guidance, NoGuidance, PrefixGuidance, RescueGuidance

GUIDANCE_STREAM = 0x6775696465  # keeps these draws apart from the gate's, which have as many keys


def half_cosine(progress: float) -> float:
    """From 1 at `progress` 0 to 0 at 1 and after: `(1 + cos(pi * progress)) / 2`. Raises ValueError below 0."""
    if not progress >= 0:
        raise ValueError(f"progress: found {progress!r}, wanted at least 0")
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def prefix_share(guidance: PrefixGuidance, progress: float) -> float:
    """Share of its turns that the teacher still plays (2606.01249)."""
    return 1.0 if guidance.schedule == "constant" else half_cosine(progress)


def guided_turns(guidance: PrefixGuidance, progress: float) -> int:
    """Turns the teacher plays at the beginning of every episode."""
    return math.floor(prefix_share(guidance, progress) * guidance.turns)


def guided_share(guidance: BernoulliGuidance, progress: float) -> float:
    """The probability with which the teacher plays a turn (2606.15912)."""
    return half_cosine(progress / guidance.until)


def plans_turns(guidance: Guidance, progress: float) -> bool:
    """Whether the teacher may play a turn at all in this part of the run."""
    match guidance:
        case NoGuidance():
            return False
        case PrefixGuidance():
            return guided_turns(guidance, progress) > 0
        case BernoulliGuidance():
            return guided_share(guidance, progress) > 0
        case RescueGuidance():
            return True
    assert_never(guidance)


def leads(guidance: PrefixGuidance | BernoulliGuidance, progress: float, seed: int, episode: int, turn: int) -> bool:
    """Whether the teacher plays turn `turn` (from 0) of the episode with this key, which is unique in the run."""
    match guidance:
        case PrefixGuidance():
            return turn < guided_turns(guidance, progress)
        case BernoulliGuidance():
            return bool(uniform(seed, GUIDANCE_STREAM, episode, turn) < guided_share(guidance, progress))
    assert_never(guidance)


def imitation_weight(guidance: Guidance) -> float:
    """Weight of the negative log-likelihood of a token the teacher wrote."""
    match guidance:
        case NoGuidance():
            return 0.0
        case PrefixGuidance(beta=beta) | BernoulliGuidance(beta=beta) | RescueGuidance(beta=beta):
            return beta
    assert_never(guidance)
