"""What engines have in common that run a `LanguageModel` in this process.

Invariant: each token of a conversation is given to the model once, the last one only when something follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trpd_agents.batching import position_chunk
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Scores


class ModelEngine:
    """Samples from `lm`, whose weights it shares: after an update in place nothing is copied. A subclass says how.

    `encoded` counts the tokens that were given to the model, padding not included.
    """

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.version = 0
        self.encoded = 0
        self._unfed: dict[int, list[int]] = {}  # a conversation's last token, which the model has not been given

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Continue every request's conversation by one action."""
        with torch.inference_mode():
            feeds = self._feeds(requests)
            for request, feed in zip(requests, feeds, strict=True):
                if not feed:
                    raise ValueError(f"conversation {request.conversation} is empty: there is nothing to go on from")
            hidden = self._encode(requests, feeds, [1] * len(requests))
            return self._decode(requests, hidden, sampling)

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        """Encode tokens that are given; float32 `[counts[i]]`, nats: the log-probabilities of the last ones of each.

        Raises:
            ValueError: a count asks for tokens that were not given, or for a conversation's first one, which nothing
                predicts.
        """
        sequences = self._feeds(requests)
        for request, sequence, count in zip(requests, sequences, counts, strict=True):
            if not 0 <= count <= min(len(request.tokens), len(sequence) - 1):
                raise ValueError(
                    f"counts: found {count} for conversation {request.conversation}, wanted at most its "
                    f"{len(request.tokens)} new tokens, each with one before it"
                )
        with torch.inference_mode():
            predictors = self._encode(requests, [s[:-1] for s in sequences], counts)
            tokens = [token for s, count in zip(sequences, counts, strict=True) for token in s[len(s) - count :]]
            values = self._logprobs(predictors, torch.tensor(tokens, dtype=torch.int64, device=self.lm.device))
        for request, sequence in zip(requests, sequences, strict=True):
            self._unfed[request.conversation] = sequence[-1:]
        return np.split(values, np.cumsum(counts)[:-1]) if len(counts) else []

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            self._unfed.pop(conversation, None)

    def rest(self) -> None:
        """Nothing: its memory is the model's."""

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        own = self.lm.model.state_dict()
        if any(state[name].data_ptr() != tensor.data_ptr() for name, tensor in own.items()):
            self.lm.model.load_state_dict(dict(state))
        self.version = version

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        return score_tokens(self.lm, sequences, positions, top_k=top_k)

    def _encode(
        self, requests: Sequence[Request], feeds: Sequence[Sequence[int]], tails: Sequence[int]
    ) -> torch.Tensor:
        """Take `feeds` in; the hidden states `[sum(tails), H]` of the last `tails[i]` tokens of each."""
        raise NotImplementedError

    def _decode(self, requests: Sequence[Request], hidden: torch.Tensor, sampling: Sampling) -> list[Completion]:
        """One action of every request's conversation, from the hidden states `[R, H]` of their last tokens."""
        raise NotImplementedError

    def _feeds(self, requests: Sequence[Request]) -> list[list[int]]:
        return [[*self._unfed.get(r.conversation, ()), *r.tokens] for r in requests]

    def _logprobs(self, predictors: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
        """Float32 `[n]`, nats: log-probabilities of `tokens` `[n]`, from a chunk of distributions at a time."""
        if not len(tokens):
            return np.zeros(0, dtype=np.float32)
        chunk = position_chunk(self.lm.vocab_size)
        parts = [
            self.lm.logits(hidden).float().log_softmax(-1).gather(-1, token[:, None])[:, 0]
            for hidden, token in zip(predictors.split(chunk), tokens.split(chunk), strict=True)
        ]
        return torch.cat(parts).cpu().numpy()
