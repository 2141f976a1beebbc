"""What engines have in common that are given a whole conversation with every request.

Invariant: a conversation's ids are only appended to: what it was given, and what it said itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.errors import RunError
from trpd_agents.rollout.engine import Request, Sampling
from trpd_agents.trajectory import Scores


class WholeConversations:
    """Keeps what was said. A subclass says how it samples and how it scores."""

    version = 0

    def __init__(self) -> None:
        self._said: dict[int, list[int]] = {}

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        """Take in given tokens; float32 `[counts[i]]`, nats: the log-probabilities of the last ones of each.

        Raises:
            ValueError: a count asks for tokens that were not given, or for a conversation's first one.
        """
        sequences, positions = [], []
        for request, count in zip(requests, counts, strict=True):
            said = self._hear(request)
            if not 0 <= count <= min(len(request.tokens), len(said) - 1):
                raise ValueError(
                    f"counts: found {count} for conversation {request.conversation}, wanted at most its "
                    f"{len(request.tokens)} new tokens, each with one before it"
                )
            sequences.append(np.array(said))
            positions.append(np.arange(len(said) - count, len(said)))
        return [scores.lt for scores in self.logprobs(sequences, positions)]

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            self._said.pop(conversation, None)

    def rest(self) -> None:
        pass

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        """Scores of `sequences[i][positions[i]]`, each position at least 1."""
        raise NotImplementedError

    def _hear(self, request: Request) -> list[int]:
        """The conversation with what is new in it."""
        said = self._said.setdefault(request.conversation, [])
        said.extend(int(token) for token in request.tokens)
        return said


def draw_seed(sampling: Sampling, key: int, position: int, bits: int) -> int:
    """The seed of an action's draws, of so many bits."""
    return int(float(uniform(sampling.seed, key, position)) * 2**bits)


def require_names(state: Mapping[str, torch.Tensor], names: frozenset[str]) -> None:
    """Refuse a trainer's `state` that has not exactly the weights `names`.

    Raises:
        RunError: some are missing, or there are others, such as adapters.
    """
    if state.keys() != names:
        missing, unknown = sorted(names - state.keys()), sorted(state.keys() - names)
        raise RunError(
            f"the trainer's weights are not those of the model that vLLM serves: missing {', '.join(missing[:3])}; "
            f"unknown to it {', '.join(unknown[:3])}"
        )
