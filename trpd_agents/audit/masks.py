"""What a method makes of good and of bad supervision: which share of either it masks.

Good supervision is a turn at which the teacher prefers an optimal action. Bad is a turn at which it does not: it is
wrong, or the task is lost and nothing is right. A mask that knows nothing masks the same share of both.

Invariant: the figures are those of `assign_credit` on the very episodes that the truth was found for; a method whose
thresholds are quantiles of what was seen takes them from these episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trpd_agents.audit.signals import AT_ONCE
from trpd_agents.audit.truth import Turns
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.evaluation.roc import interval
from trpd_agents.evaluation.statistics import Estimate
from trpd_agents.trajectory import Trajectory, pad_scored


@dataclass(frozen=True)
class Mask:
    """What is left of each turn, float64 `[n]`: of its tokens the share with any weight in a KL stream, and the mean of
    the larger of the two streams' weights."""

    kept: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """A mask against the truth. Shares masked are means over turns of `1 - kept`; NaN where there is no such turn."""

    kept: float
    weight: float
    good_masked: Estimate
    bad_masked: Estimate
    advantage: Estimate  # bad_masked - good_masked: 0 for a mask that knows nothing
    wrong_masked: float
    lost_masked: float
    good_weight: float
    bad_weight: float
    by_turn: list[dict[str, float]]  # `kept`, `good_masked` and `bad_masked` per turn index


def mask(method: CreditConfig, trajectories: Sequence[Trajectory], seed: int = 0) -> Mask:
    """The turns of scored `trajectories` under `method`. Raises ValueError when the scores lack what it reads."""
    chunks = [trajectories[i : i + AT_ONCE] for i in range(0, len(trajectories), AT_ONCE)]
    seen = [torch.zeros(0)]
    for chunk in chunks:
        credit = assign_credit(pad_scored(chunk), method, 0, seed)
        seen.append(credit.turn_divergence[credit.turn_counts])
    recent = torch.cat(seen)
    found = [_of_chunk(chunk, method, seed, recent) for chunk in chunks]
    kept, weight = np.concatenate([np.zeros((2, 0)), *found], axis=1)
    return Mask(kept, weight)


def _of_chunk(chunk: Sequence[Trajectory], method: CreditConfig, seed: int, recent: torch.Tensor) -> np.ndarray:
    """`[2, n]`: share kept and mean weight of each turn."""
    batch = pad_scored(chunk)
    credit = assign_credit(batch, method, 0, seed, recent)
    weight = torch.maximum(credit.policy_weight, credit.forward_kl_weight).double()
    B, K = batch.ok.shape
    turn = torch.where(batch.action, batch.turn, K)  # what is no action goes to one bin more
    total = torch.zeros(3, B, K + 1, dtype=torch.float64)
    for bins, values in zip(total, ((weight > 0).double(), weight, torch.ones_like(weight)), strict=True):
        bins.scatter_add_(1, turn, values)
    played = torch.arange(K) < torch.tensor([len(t.turns) for t in chunk])[:, None]
    return (total[:2] / total[2].clamp(min=1))[:, :, :K][:, played].numpy()


def judge(found: Mask, turns: Turns, draws: np.ndarray) -> Judgement:
    """Hold a mask against the truth; intervals over the episodes in `draws` (see `draw_episodes`)."""
    masked, good = 1 - found.kept, turns.teacher_right
    good_masked, good_draws = _share(masked, good, turns.episode, draws)
    bad_masked, bad_draws = _share(masked, ~good, turns.episode, draws)
    difference = Estimate(bad_masked.mean - good_masked.mean, *interval(bad_draws - good_draws))
    by_turn = []
    for k in range(int(turns.turn.max(initial=-1)) + 1):
        here = turns.turn == k
        by_turn.append(
            {
                "kept": mean(found.kept[here]),
                "good_masked": mean(masked[here & good]),
                "bad_masked": mean(masked[here & ~good]),
            }
        )
    return Judgement(
        kept=mean(found.kept),
        weight=mean(found.weight),
        good_masked=good_masked,
        bad_masked=bad_masked,
        advantage=difference,
        wrong_masked=mean(masked[turns.wrong]),
        lost_masked=mean(masked[turns.lost]),
        good_weight=mean(found.weight[good]),
        bad_weight=mean(found.weight[~good]),
        by_turn=by_turn,
    )


def _share(
    values: np.ndarray, where: np.ndarray, episode: np.ndarray, draws: np.ndarray
) -> tuple[Estimate, np.ndarray]:
    """Mean of `values` over the turns `where`, with its interval, and as resampled."""
    episodes = draws.shape[1]
    total = draws @ np.bincount(episode[where], weights=values[where], minlength=episodes)
    count = draws @ np.bincount(episode[where], minlength=episodes)
    resampled = np.divide(total, count, out=np.full(len(draws), math.nan), where=count > 0)
    return Estimate(mean(values[where]), *interval(resampled)), resampled


def mean(values: np.ndarray) -> float:
    """NaN of nothing."""
    return float(values.mean(dtype=np.float64)) if len(values) else math.nan
