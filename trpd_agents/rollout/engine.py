"""What any inference engine has to do for the collector.

Invariant: a conversation's prefix is paid for once. A request carries only the tokens that this engine has not seen
yet; what the engine itself sampled it already knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from trpd_agents.textenv.pool import EnvView
from trpd_agents.trajectory import Scores, Stop


@dataclass(frozen=True)
class Sampling:
    """How to sample. Always the full vocabulary: truncated sampling (top-p, top-k) would bias every log ratio.

    `temperature` 0 is greedy. Log-probabilities are always reported at temperature 1. `seed` and a request's `key`
    decide every random draw, so results do not depend on the batch an episode shares.
    """

    max_new_tokens: int
    end_ids: frozenset[int]
    temperature: float = 1.0
    seed: int = 0


@dataclass
class Request:
    """Continue `conversation` after `tokens`, the ids this engine has not seen yet. `key` names the random stream.

    `env` is the environment that the conversation is with, for a player that is no model but the environment's expert.
    """

    conversation: int
    tokens: Sequence[int]
    key: int
    env: EnvView | None = None


@dataclass
class Completion:
    """Sampled ids, with the end-of-turn token if it was sampled, and their log-probabilities in nats."""

    tokens: list[int]
    logprobs: list[float]
    stop: Stop


class Engine(Protocol):
    """Samples many conversations at once. `version` counts the weight updates it has received."""

    version: int

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]: ...

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        """Take in what somebody else said: `requests[i].tokens`, and nothing is sampled.

        Returns:
            Per request, float32 `[counts[i]]`, nats: the log-probabilities of the last `counts[i]` of its tokens.
        """
        ...

    def release(self, conversations: Sequence[int]) -> None:
        """Forget conversations that have ended."""
        ...

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None: ...

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int
    ) -> list[Scores]: ...


class StudentEngine(Engine, Protocol):
    """An engine that plays as the student, whose weights change."""

    def rest(self) -> None:
        """Called when nothing is to be sampled for a while: memory may be given to others until the next call."""
        ...
