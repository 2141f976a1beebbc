"""What lets a model behind a server play turns: an engine that sends conversations as token ids.

Invariant: the server keeps nothing between requests. Each one carries the whole conversation, whose prefix the server's
own cache has to find again; so a server that was started anew in the middle of an episode goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.teacher.dialects import Dialect
from trpd_agents.teacher.generation import generated_ids, generation_request
from trpd_agents.teacher.http import Endpoint
from trpd_agents.trajectory import Scores, Stop

Score = Callable[[Sequence[np.ndarray], Sequence[np.ndarray], int], list[Scores]]
"""From token ids `[T]`, positions `[n]` and how many top tokens are wanted to what the server says there."""


class ServerEngine:
    """Plays as `model` behind `endpoint`, and reads along through `score`. Its log-probabilities are not returned."""

    version = 0

    def __init__(self, endpoint: Endpoint, model: str, dialect: Dialect, score: Score):
        self._endpoint = endpoint
        self._model = model
        self._dialect = dialect
        self._score = score
        self._conversations: dict[int, list[int]] = {}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        bodies = [self._body(request, self._take_in(request), sampling) for request in requests]
        completions = [
            self._completion(generated_ids(answer), sampling)
            for answer in self._endpoint.post_all("completions", bodies)
        ]
        for request, completion in zip(requests, completions, strict=True):
            self._conversations[request.conversation] += completion.tokens
        return completions

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        """Take in what others said; the log-probabilities of the last `counts[i]` tokens, `[counts[i]]` each, nats."""
        sequences = [np.array(self._take_in(request), dtype=np.int32) for request in requests]
        wanted = [np.arange(len(s) - count, len(s)) for s, count in zip(sequences, counts, strict=True)]
        return [scores.lt for scores in self._score(sequences, wanted, 0)]

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            self._conversations.pop(conversation, None)

    def logprobs(self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int) -> list[Scores]:
        return self._score(sequences, positions, top_k)

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        raise TypeError("a server keeps its own weights")

    def _take_in(self, request: Request) -> list[int]:
        """The conversation with what is new in it."""
        tokens = self._conversations.setdefault(request.conversation, [])
        tokens += [int(token) for token in request.tokens]
        return tokens

    def _body(self, request: Request, tokens: Sequence[int], sampling: Sampling) -> dict[str, object]:
        draw = float(uniform(sampling.seed, request.key, len(tokens)))
        return generation_request(
            self._dialect,
            self._model,
            tokens,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=int(draw * 2**31),
            end_ids=sampling.end_ids,
        )

    def _completion(self, ids: list[int], sampling: Sampling) -> Completion:
        """A server without `stop_token_ids` may go on after the end of the turn; what follows it is dropped."""
        ends = [i for i, token in enumerate(ids) if token in sampling.end_ids]
        tokens = ids[: ends[0] + 1] if ends else ids
        return Completion(tokens, [float("nan")] * len(tokens), Stop.END if ends else Stop.LENGTH)
