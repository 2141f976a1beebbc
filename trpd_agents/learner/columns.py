"""What the loss needs at the weighted positions of a micro-batch, one entry per position.

Invariant: a position is looked up by its explicit index, in the trajectory for what was sampled and in the teacher's
scores for what it said there; nothing is aligned by counting from an end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trpd_agents.credit import Credit, CreditConfig
from trpd_agents.learner.normalisers import Normalisers
from trpd_agents.trajectory import Trajectory


def gather_columns(
    trajectories: Sequence[Trajectory],
    credit: Credit,
    method: CreditConfig,
    normalisers: Normalisers,
    group: Sequence[int],
    positions: Sequence[torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What `stream_losses` needs at the n weighted positions of the trajectories `group`, `[n, ...]` by argument.

    `positions[b]` int64 are those of trajectory b. `hidden` among the columns stands for the teacher's distributions.
    """
    at = torch.cat([positions[b] for b in group])
    row = torch.repeat_interleave(torch.arange(len(group)), torch.tensor([len(positions[b]) for b in group]))
    b_at = torch.tensor(group)[row], at
    turn_unit = credit.turn_unit[b_at]
    columns = {
        "token": torch.cat([torch.from_numpy(trajectories[b].tokens)[positions[b]] for b in group]).long(),
        "ls_old": torch.cat([torch.from_numpy(trajectories[b].logprobs)[positions[b]] for b in group]),
        "policy_weight": normalisers.rescale(credit.policy_weight[b_at], turn_unit),
        "score": credit.score[b_at],
        "forward_kl_weight": normalisers.rescale(credit.forward_kl_weight[b_at], turn_unit),
        "imitation_weight": credit.imitation_weight[b_at],
    }
    forward = bool((columns["forward_kl_weight"] != 0).any())
    taught: dict[str, list[torch.Tensor]] = {}
    for b in group if forward or method.exact else []:
        scores = trajectories[b].scores
        assert scores is not None  # a trajectory without scores has no weights, so no positions
        index = torch.searchsorted(torch.from_numpy(scores.positions), positions[b])
        if forward and scores.top_ids is not None and scores.top_lt is not None:
            taught.setdefault("top_ids", []).append(torch.from_numpy(scores.top_ids).long()[index])
            taught.setdefault("top_lt", []).append(torch.from_numpy(scores.top_lt)[index])
        if method.exact and scores.hidden is not None:
            taught.setdefault("hidden", []).append(scores.hidden[index.to(scores.hidden.device)])
    return columns | {name: torch.cat(values) for name, values in taught.items()}
