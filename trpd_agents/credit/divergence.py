"""From tokens to turns: the figures a trajectory rule looks at.

Invariant: only the student's own tokens with a finite log-probability enter, each in the turn its explicit index names;
a turn without any has log ratio 0, divergence 0 and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trpd_agents.credit.config import Divergence
from trpd_agents.credit.gate import acceptance


@dataclass(frozen=True)
class Turns:
    """Per-turn figures, all `[B, K]`."""

    log_ratio: torch.Tensor  # float64, nats: sum of d over the turn
    divergence: torch.Tensor  # float32: 0 where the turn does not count
    counts: torch.Tensor  # bool: enough tokens, and not cut off
    ok: torch.Tensor  # bool: the environment accepted the action


def sum_per_turn(values: torch.Tensor, turn: torch.Tensor, where: torch.Tensor, n_turns: int) -> torch.Tensor:
    """Sum `values` `[B, T]` over each turn's tokens for which `where` holds: float64 `[B, K]`."""
    spare = n_turns  # tokens left out, whatever they hold, go to one bin more, which is cut off again
    bins = torch.zeros(values.shape[0], n_turns + 1, dtype=torch.float64, device=values.device)
    return bins.scatter_add_(1, torch.where(where, turn, spare), values.to(torch.float64))[:, :n_turns]


def summarise_turns(
    config: Divergence,
    d: torch.Tensor,
    turn: torch.Tensor,
    usable: torch.Tensor,
    ok: torch.Tensor,
    complete: torch.Tensor,
) -> Turns:
    """Figures of each turn from the log ratio `d` `[B, T]` (nats) of its `usable` `[B, T]` tokens.

    `turn` int64 `[B, T]`; `ok` and `complete` bool `[B, K]`. The log ratio takes in every usable token, also those of a
    turn that does not count: they were played, so they are part of how this history came about.
    """
    n_turns = ok.shape[1]
    n_tokens = sum_per_turn(torch.ones_like(d), turn, usable, n_turns)
    counts = (n_tokens >= config.min_tokens) & complete
    accepted = sum_per_turn(acceptance(d), turn, usable, n_turns)
    tv = 1 - accepted / n_tokens.clamp(min=1)
    return Turns(
        log_ratio=sum_per_turn(d, turn, usable, n_turns),
        divergence=torch.where(counts, tv, 0).to(torch.float32),
        counts=counts,
        ok=ok,
    )
