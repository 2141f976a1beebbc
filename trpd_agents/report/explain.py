"""Why a turn carries the weight it carries, in words and with the figures that decided.

Invariant: a turn is explained exactly where the trajectory rule gave it a weight other than 1, and the figures are
those the rule looked at. Turns are counted from 0, as in the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trpd_agents.credit.config import (
    CreditConfig,
    HysteresisRule,
    LeakyRule,
    MaxDivergenceFilter,
    OccupancyRule,
    PositionRule,
    RandomRule,
    RewardAlignedFilter,
    Rule,
    SodRule,
    StopRule,
    TdurRule,
)


@dataclass(frozen=True)
class TurnFigures:
    """What the rules look at, of one episode, each `[K]`; see `credit.divergence.Turns`."""

    divergence: np.ndarray
    counts: np.ndarray
    ok: np.ndarray
    repeat: np.ndarray
    log_ratio: np.ndarray  # nats, of all the student's tokens of the turn

    def reach(self, forget: float) -> np.ndarray:
        """`[K]` nats, the log ratio of reaching each turn: see `credit.rules.occupancy.log_reach`."""
        found = np.zeros(len(self.log_ratio))
        for k in range(1, len(found)):
            found[k] = forget * found[k - 1] + self.log_ratio[k - 1]
        return found


def explain_turns(rule: Rule, turns: TurnFigures, weight: Sequence[float]) -> list[str]:
    """One sentence per turn, empty where the weight is 1. `rule` has its thresholds as values; `weight` `[K]`."""
    words = [""] * len(weight)
    match rule:
        case HysteresisRule():
            words = _hysteresis(rule, turns)
        case StopRule():
            words = _stop(rule, turns)
        case OccupancyRule():
            words = _occupancy(rule, turns, weight)
        case LeakyRule():
            words = _leaky(rule, turns)
        case SodRule():
            first = int(turns.counts.argmax()) if turns.counts.any() else 0
            words = [
                f"divergence {turns.divergence[k]:.2f}, against {turns.divergence[first]:.2f} in turn {first}"
                for k in range(len(weight))
            ]
        case TdurRule():
            words = [f"divergence {value:.2f} and the student's surprisal, against the other turns" for value in
                     turns.divergence]  # fmt: skip
        case PositionRule():
            words = [f"the weight falls by a factor of {rule.decay:g} per turn" for _ in weight]
        case RandomRule():
            words = [f"masked by chance: a share of {rule.share:g} of all turns is kept" for _ in weight]
    shown = []
    for value, why in zip(weight, words, strict=True):
        if value == 1:
            shown.append("")
        elif 0 < value:
            shown.append(f"weight {value:.2f}: {why}" if why else f"weight {value:.2f}")
        else:
            shown.append(why or "weight 0 under the trajectory rule")
    return shown


def over(value: float, line: float) -> str:
    """`value > line` or `value < line`, with as many digits as it takes to see which."""
    digits = next((n for n in (2, 3, 4) if round(float(value), n) != round(line, n)), 6)
    return f"{value:.{digits}f} {'>' if value > line else '<'} {line:.{digits}f}"


def explain_filter(method: CreditConfig, turns: TurnFigures, success: bool | None) -> str:
    """Why a trajectory was filtered out as a whole."""
    match method.filter:
        case MaxDivergenceFilter(threshold=threshold):
            worst = int(np.where(turns.counts, turns.divergence, -math.inf).argmax()) if len(turns.counts) else 0
            return f"filtered out: turn {worst} diverges by {over(turns.divergence[worst], threshold)}"
        case RewardAlignedFilter():
            outcome = "success" if success else "failure"
            total = turns.log_ratio.sum()
            return f"filtered out: the teacher's log ratio {total:+.2f} nats speaks against the outcome, a {outcome}"
    return "filtered out"


def _hysteresis(rule: HysteresisRule, turns: TurnFigures) -> list[str]:
    """Walks as `credit.rules.hysteresis` does, remembering where the region was left."""
    words = []
    left: int | None = None
    agreed = 0
    for k in range(len(turns.counts)):
        if left is None:
            words.append("")
        else:
            last = "" if k - 1 == left else _no_return(rule, turns, k - 1, agreed)
            words.append(f"outside since turn {left}, divergence {over(turns.divergence[left], rule.enter)}{last}")
        believed = not rule.evidence or bool(turns.ok[k] and not turns.repeat[k])
        agrees = bool(turns.counts[k] and turns.divergence[k] <= rule.leave and believed)
        if left is not None:
            breaks = (turns.counts[k] and not agrees) or not believed
            agreed = 0 if breaks else agreed + agrees
            if agreed >= rule.patience:
                left, agreed = None, 0
        elif turns.counts[k] and turns.divergence[k] > rule.enter:
            left, agreed = k, 0
    return words


def _no_return(rule: HysteresisRule, turns: TurnFigures, k: int, agreed: int) -> str:
    """What kept turn `k` from leading back."""
    if rule.evidence and not turns.ok[k]:
        return ", last call failed"
    if rule.evidence and turns.repeat[k]:
        return ", last turn repeated the one before"
    if not turns.counts[k]:
        return ", last turn does not count"
    if turns.divergence[k] > rule.leave:
        return f", last divergence {over(turns.divergence[k], rule.leave)}"
    return f", {agreed} of {rule.patience} turns agreed since"


def _stop(rule: StopRule, turns: TurnFigures) -> list[str]:
    beyond = np.flatnonzero(turns.counts & (turns.divergence > rule.enter))
    if not len(beyond):
        return [""] * len(turns.counts)
    first = int(beyond[0])
    why = f"outside since turn {first}, divergence {over(turns.divergence[first], rule.enter)}, for good"
    return [why if k > first else "" for k in range(len(turns.counts))]


def _occupancy(rule: OccupancyRule, turns: TurnFigures, weight: Sequence[float]) -> list[str]:
    reach = turns.reach(rule.forget)
    words = []
    left: int | None = None
    for k, value in enumerate(weight):
        if value == 1:
            left = None
            words.append("")
            continue
        left = k - 1 if left is None else left
        words.append(
            f"outside since turn {left}, log ratio of the history {over(reach[k], -rule.budget)} nats: "
            "the teacher would hardly have come here"
        )
    return words


def _leaky(rule: LeakyRule, turns: TurnFigures) -> list[str]:
    level, words = 0.0, []
    for divergence, counts in zip(turns.divergence, turns.counts, strict=True):
        words.append(f"divergence beyond {rule.enter:.2f} has added up to {level:.2f}")
        level = rule.leak * level + (max(float(divergence) - rule.enter, 0) if counts else 0)
    return words
