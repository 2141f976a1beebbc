"""What could tell a mask that the teacher is wrong: one figure per turn, larger for less trust.

Invariant: a causal signal of a turn is a function of the tokens before that turn's action (and of what the teacher
would say next); it does not change with what the student does in the turn or later. The others look at the turn itself.
A turn that does not count for divergence (cut off) has none: NaN, and adds nothing to later turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trpd_agents.credit import INVALID_LOG_RATIO, STATISTICS, Divergence
from trpd_agents.credit.divergence import Turns, TurnTokens, summarise_turns
from trpd_agents.credit.rules.occupancy import log_reach
from trpd_agents.trajectory import ScoredBatch, Trajectory, pad_scored

AT_ONCE = 64  # trajectories in one padded batch


@dataclass(frozen=True)
class Signal:
    causal: bool
    meaning: str


SIGNALS: dict[str, Signal] = {
    "turn": Signal(True, "how many turns came before: the trivial baseline"),
    "occupancy": Signal(True, "how much less often the teacher reaches this history than the student, nats"),
    "entropy_first": Signal(True, "the teacher's entropy before the first token of the action, nats"),
    **{f"{kind}_max_before": Signal(True, f"greatest {kind} of earlier turns, at least 0") for kind in STATISTICS},
    **{f"{kind}_sum_before": Signal(True, f"sum of {kind} over earlier turns") for kind in STATISTICS},
    **{kind: Signal(False, f"{kind} of the turn") for kind in STATISTICS},
    "entropy": Signal(False, "the teacher's mean entropy over the turn's tokens, nats"),
}


def turn_signals(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Every signal of `SIGNALS`, float64 `[n]`, turn after turn and episode after episode.

    Scores with entropies are needed. Raises ValueError for a trajectory without.
    """
    if any(t.scores is None or t.scores.entropy is None for t in trajectories):
        raise ValueError("trajectories: found one without the teacher's scores or entropies, wanted both on all")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SIGNALS}
    for start in range(0, len(trajectories), AT_ONCE):
        chunk = trajectories[start : start + AT_ONCE]
        for name, values in _of_batch(pad_scored(chunk), chunk).items():
            parts[name].append(values)
    return {name: np.concatenate(found) if found else np.zeros(0) for name, found in parts.items()}


def _of_batch(scored: ScoredBatch, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    tokens = turn_tokens(scored)
    B, K = scored.ok.shape
    played = torch.arange(K) < torch.tensor([len(t.turns) for t in trajectories])[:, None]
    k = torch.arange(K, dtype=torch.float64).expand(B, K)
    found: dict[str, torch.Tensor] = {"turn": k}
    no_repeat = torch.zeros_like(scored.ok)  # no signal looks at it
    turns: Turns | None = None
    for kind in STATISTICS:
        turns = summarise_turns(Divergence(kind=kind), tokens, scored.ok, scored.complete, no_repeat)  # type: ignore[arg-type]
        divergence = turns.divergence.double()
        before = torch.cat([divergence.new_zeros(B, 1), divergence[:, :-1]], dim=1)  # not counted: 0
        found[f"{kind}_max_before"] = before.cummax(1).values
        found[f"{kind}_sum_before"] = before.cumsum(1)
        found[kind] = torch.where(turns.counts, divergence, torch.nan)
    assert turns is not None
    found["occupancy"] = -log_reach(turns.log_ratio, forget=1.0)
    found["entropy"], found["entropy_first"] = _entropies(scored, tokens, trajectories)
    return {name: values[played].numpy() for name, values in found.items()}


def turn_tokens(scored: ScoredBatch) -> TurnTokens:
    """The tokens that credit assignment takes turn figures from, with the same log ratios."""
    ls, lt = scored.ls.float(), scored.lt.float()
    usable = scored.action & scored.teacher_available[:, None] & torch.isfinite(ls)
    d = torch.where(usable, torch.where(torch.isfinite(lt), lt - ls, INVALID_LOG_RATIO), 0)
    return TurnTokens(d, ls, scored.turn, usable, scored.ok.shape[1])


def _entropies(
    scored: ScoredBatch, tokens: TurnTokens, trajectories: Sequence[Trajectory]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's entropy over each turn's tokens and before the first of them, `[B, K]` nats."""
    assert scored.entropy is not None
    mean = torch.where(tokens.count() > 0, tokens.mean(scored.entropy), torch.nan)
    first = torch.full_like(mean, torch.nan)
    for b, trajectory in enumerate(trajectories):
        starts = [turn.action[0] for turn in trajectory.turns]
        first[b, : len(starts)] = scored.entropy[b, starts].double()
    return mean, first
