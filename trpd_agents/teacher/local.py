"""A teacher that is a transformers model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Engine
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Scores, Trajectory


class LocalTeacher:
    """Scores with `lm`.

    Args:
        top_k: how many of the teacher's most likely tokens to return per position (for forward KL); 0 for none.
        entropy: whether to return the entropy of its whole distribution per position.
        keep_hidden: keep hidden states, from which `log_distribution` gives the whole distribution (for exact reverse
            KL).
        token_budget: tokens in one forward pass, padding included.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        top_k: int = 0,
        entropy: bool = False,
        keep_hidden: bool = False,
        token_budget: int = 4096,
    ):
        self.lm = lm
        self.top_k = top_k
        self.entropy = entropy
        self.keep_hidden = keep_hidden
        self.token_budget = token_budget

    @cached_property
    def engine(self) -> Engine:
        """Plays with `lm`; made when it is first asked for."""
        return local_engine(self.lm)

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        return score_tokens(
            self.lm,
            [t.tokens for t in trajectories],
            [t.action_positions() for t in trajectories],
            top_k=self.top_k,
            entropy=self.entropy,
            keep_hidden=self.keep_hidden,
            token_budget=self.token_budget,
        )

    @torch.no_grad()
    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.logits(hidden).float().log_softmax(-1)
