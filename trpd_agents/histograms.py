"""How the figures of a step are spread, as counts in bins that never change.

Invariant: bins are the same in every step, run and rank, so counts can be added and compared. Bin `i` is `[edges[i-1],
edges[i])`; the first and the last are open.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from trpd_agents.credit import Credit
from trpd_agents.distributed import World
from trpd_agents.trajectory import ScoredBatch

BINS: dict[str, tuple[float, ...]] = {
    "log_ratio_histogram": (-16, -8, -4, -2, -1, -0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16),
    "turn_divergence_histogram": (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 4, 8, 16),
}
"""Inner edges by metric: nats; for the divergence what `credit.divergence` measures."""


def histograms(world: World, scored: ScoredBatch, credit: Credit) -> dict[str, list[int]]:
    """Of the student's action tokens, `lt - ls`; and of the turns that count. The same on every rank.

    What is not finite, and what no teacher has scored, is in no bin.
    """
    ratios = (scored.lt - scored.ls)[scored.action & scored.teacher_available[:, None]]
    values = {"log_ratio_histogram": ratios, "turn_divergence_histogram": credit.turn_divergence[credit.turn_counts]}
    counts = {name: _counts(values[name], edges) for name, edges in BINS.items()}
    sums = iter(world.sum(*(float(n) for row in counts.values() for n in row)))
    return {name: [int(next(sums)) for _ in row] for name, row in counts.items()}


def _counts(values: torch.Tensor, edges: tuple[float, ...]) -> list[int]:
    finite = values[values.isfinite()].double().cpu()
    bins = torch.bucketize(finite, torch.tensor(edges, dtype=torch.float64), right=True)
    return torch.bincount(bins, minlength=len(edges) + 1).tolist()


def closed(edges: tuple[float, ...]) -> list[tuple[float, float]]:
    """The bins as intervals, for displays that know no open ones: those at the ends are as wide as their neighbours."""
    first, last = 2 * edges[0] - edges[1], 2 * edges[-1] - edges[-2]
    return list(pairwise((first, *edges, last)))
