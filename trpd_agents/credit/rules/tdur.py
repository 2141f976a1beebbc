"""TDUR: a turn weighs more the further it diverges or the less sure the student was (ATOD, 2606.27814).

The opposite sign to SOD: what is far apart is where there is something to learn.

Invariant: weights lie in [0, 1] and compare the turns of one trajectory, so the weight of turn k depends on the turn
itself and on all others, later ones included. A turn that does not count has weight 1 and is not compared with.
"""

from __future__ import annotations

import torch

from trpd_agents.credit.config import TdurRule
from trpd_agents.credit.divergence import Turns


def tdur(rule: TdurRule, turns: Turns) -> torch.Tensor:
    """Turn weights float32 `[B, K]`: `1 - (1 - d~) (1 - h~)`.

    `d~` and `h~` are the divergence and the student's mean surprisal (`-mean ls`), each moved to [0, 1] by the least
    and the greatest of the trajectory. When all are the same there is nothing to raise and both are 0: a trajectory of
    one turn has weight 0.
    """
    d, h = (_min_max(values, turns.counts) for values in (turns.divergence, turns.student_surprisal))
    return torch.where(turns.counts, 1 - (1 - d) * (1 - h), 1.0).to(torch.float32)


def _min_max(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`values` `[B, K]` moved to [0, 1] within each row, looking only where `counts` holds; a constant row is 0."""
    if values.shape[1] == 0:
        return values.to(torch.float64)
    values = values.to(torch.float64)
    low = torch.where(counts, values, torch.inf).amin(1, keepdim=True)
    high = torch.where(counts, values, -torch.inf).amax(1, keepdim=True)
    varies = counts & (high > low)
    return torch.where(varies, (values - low) / torch.where(varies, high - low, 1), 0)
