"""Curriculum: how many turns a training episode may have.

Invariant: the cap lies in [1, max_turns] and never shrinks as a run goes on. What a probe has found out so far is one
number, the turns it has added; everything else follows from the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from trpd_agents.credit.config import Curriculum, DepthCurriculum, NoCurriculum, ProbeCurriculum


def turn_cap(curriculum: Curriculum, step: int, added: int, max_turns: int) -> int:
    """Turns that episodes of `step` (from 0) may have, of at most `max_turns`.

    `added` is how often `deepens` has said yes before this step.
    """
    match curriculum:
        case NoCurriculum():
            return max_turns
        case DepthCurriculum(every=every):
            return min(1 + step // every, max_turns)
        case ProbeCurriculum(start=start):
            return min(start + added, max_turns)
    assert_never(curriculum)


def deepens(
    curriculum: Curriculum, cap: int, divergence: Sequence[float], counted: Sequence[float], max_turns: int
) -> bool:
    """Whether a step played under `cap` earns later ones another turn.

    `divergence` and `counted` are the step's sums by turn index, over all ranks: the divergence of the turns that
    count, and their number. A depth at which no turn counted says nothing.
    """
    match curriculum:
        case NoCurriculum() | DepthCurriculum():
            return False
        case ProbeCurriculum(threshold=threshold):
            if cap >= max_turns or not counted[cap - 1]:
                return False
            return divergence[cap - 1] / counted[cap - 1] <= threshold
    assert_never(curriculum)
