"""From tokens to turns: the figures a trajectory rule looks at.

Invariant: only the student's own tokens with a finite log-probability enter, each in the turn its explicit index names;
a turn without any has log ratio 0, divergence 0 and does not count. Every figure is finite, and a larger divergence
always means further apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trpd_agents.credit.config import Divergence
from trpd_agents.credit.gate import acceptance

MAX_LOG_RATIO = 20.0
"""Nats: `k1` and `k3` read a log ratio no higher than this, so `exp` cannot overflow."""


@dataclass(frozen=True)
class Turns:
    """Per-turn figures, all `[B, K]`."""

    log_ratio: torch.Tensor  # float64, nats: sum of d over the turn
    divergence: torch.Tensor  # float32: 0 where the turn does not count
    counts: torch.Tensor  # bool: enough tokens, and not cut off
    ok: torch.Tensor  # bool: the environment accepted the action
    repeat: torch.Tensor  # bool: the turn before tried the very same
    student_surprisal: torch.Tensor  # float64, nats: -mean ls over the turn, 0 where there is nothing


@dataclass(frozen=True)
class TurnTokens:
    """What a statistic is computed from: the usable tokens of every turn."""

    d: torch.Tensor  # [B, T]  nats, finite; lt - ls
    ls: torch.Tensor  # [B, T]  nats, finite where usable
    turn: torch.Tensor  # int64 [B, T]
    usable: torch.Tensor  # bool [B, T]
    n_turns: int

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` `[B, T]` over each turn's usable tokens: float64 `[B, K]`."""
        return self._bins(0.0).scatter_add_(1, self._index(), values.to(torch.float64))[:, : self.n_turns]

    def count(self) -> torch.Tensor:
        """Usable tokens of each turn: float64 `[B, K]`."""
        return self.sum(torch.ones_like(self.d))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over each turn's usable tokens, 0 where there are none: float64 `[B, K]`."""
        return self.sum(values) / self.count().clamp(min=1)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """Greatest of each turn's usable tokens, 0 where there are none: float64 `[B, K]`."""
        top = self._bins(-torch.inf).scatter_reduce_(1, self._index(), values.to(torch.float64), "amax")
        return torch.where(self.count() > 0, top[:, : self.n_turns], 0)

    def _index(self) -> torch.Tensor:
        # tokens left out, whatever they hold, go to one bin more, which is cut off again
        return torch.where(self.usable, self.turn, self.n_turns)

    def _bins(self, value: float) -> torch.Tensor:
        shape = (self.d.shape[0], self.n_turns + 1)
        return torch.full(shape, value, dtype=torch.float64, device=self.d.device)


def _tv(tokens: TurnTokens) -> torch.Tensor:
    """`1 - mean min(rho, 1)`: in [0, 1], whatever the length; unbiased for the turn's mean total variation."""
    return (1 - tokens.mean(acceptance(tokens.d))).clamp(min=0)


def _excess(tokens: TurnTokens) -> torch.Tensor:
    """`mean max(-d, 0)`, nats: how much more the student likes its tokens, where it does."""
    return tokens.mean((-tokens.d).clamp(min=0))


def _abs(tokens: TurnTokens) -> torch.Tensor:
    """`mean |d|`, nats (SOD 2605.07725, ATOD 2606.27814)."""
    return tokens.mean(tokens.d.abs())


def _k1(tokens: TurnTokens) -> torch.Tensor:
    """`-mean d`, nats: unbiased for the reverse KL, and negative where the teacher likes the turn better."""
    return tokens.mean(-tokens.d.clamp(max=MAX_LOG_RATIO))


def _k3(tokens: TurnTokens) -> torch.Tensor:
    """`mean (e^d - 1 - d)`, nats: unbiased for the reverse KL too, and never negative."""
    d = tokens.d.to(torch.float64).clamp(max=MAX_LOG_RATIO)
    return tokens.mean((torch.expm1(d) - d).clamp(min=0))


def _max(tokens: TurnTokens) -> torch.Tensor:
    """`max(-d)`, nats: the worst token (trust-region masking, 2512.23075)."""
    return tokens.max(-tokens.d)


def _teacher_logprob(tokens: TurnTokens) -> torch.Tensor:
    """`-mean lt`, nats: the teacher's surprise (STRIDE 2609.14636, whose mean `lt` has its sign turned here).

    It does not compare with the student, so it is above 0 even where the two agree.
    """
    return tokens.mean(-(tokens.ls + tokens.d))


STATISTICS: dict[str, Callable[[TurnTokens], torch.Tensor]] = {
    "tv": _tv,
    "excess": _excess,
    "abs": _abs,
    "k1": _k1,
    "k3": _k3,
    "max": _max,
    "teacher_logprob": _teacher_logprob,
}
"""Every turn divergence, float64 `[B, K]` from the tokens. For all of them larger means further apart."""


def summarise_turns(
    config: Divergence, tokens: TurnTokens, ok: torch.Tensor, complete: torch.Tensor, repeat: torch.Tensor
) -> Turns:
    """Figures of each turn; `ok`, `complete` and `repeat` are bool `[B, K]`.

    The log ratio takes in every usable token, also those of a turn that does not count: they were played, so they are
    part of how this history came about.
    """
    counts = (tokens.count() >= config.min_tokens) & complete
    return Turns(
        log_ratio=tokens.sum(tokens.d),
        divergence=torch.where(counts, STATISTICS[config.kind](tokens), 0).to(torch.float32),
        counts=counts,
        ok=ok,
        repeat=repeat,
        student_surprisal=tokens.mean(-tokens.ls),
    )
