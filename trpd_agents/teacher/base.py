"""What a teacher is to the rest: something that scores trajectories, and may also act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from trpd_agents.rollout.engine import Engine
from trpd_agents.trajectory import Scores, Trajectory


class Teacher(Protocol):
    """Scores every action token."""

    @property
    def engine(self) -> Engine | None:
        """What lets it act (guidance); None if it cannot."""
        ...

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        """The teacher's opinion of each trajectory's action tokens, whoever wrote them, at explicit positions."""
        ...

    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        """log pi_T over the vocabulary, `[n, V]` nats, from hidden states `[n, H]` that `score` kept."""
        ...
