"""What lets the oracle play turns: an engine that asks the environment instead of a model.

Invariant: like any engine's, an answer is a function of the conversation and of the request's random stream; batches
do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trpd_agents.counter_rng import uniform
from trpd_agents.errors import UserError
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.trajectory import Scores, Stop


class OracleEngine:
    """Answers with one of the optimal actions, drawn evenly; in a lost state with one of the legal ones.

    Where the environment lists neither, the answer is empty, which costs a turn. Whatever needs weights, or an opinion
    of what others said, is not to be had from this engine.
    """

    version = 0

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._dialogues = Dialogues(tokenizer)
        self._lengths: dict[int, int] = {}  # tokens of each conversation so far: names the draw

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [self._answer(request, sampling) for request in requests]

    def _answer(self, request: Request, sampling: Sampling) -> Completion:
        env = request.env
        if env is None:
            raise ValueError("request.env: found None, wanted the environment whose expert is to play")
        length = self._take_in(request)
        texts = env.optimal_actions() or env.legal_actions() or [""]
        text = texts[int(float(uniform(sampling.seed, request.key, length)) * len(texts))]
        ids = self._dialogues(env.instructions, env.tools).answer(text)
        if len(ids) > sampling.max_new_tokens:
            raise UserError(
                f"rollout.max_new_tokens={sampling.max_new_tokens} is less than the {len(ids)} tokens of what the "
                f"expert of {env.spec.id!r} says, {text!r:.200}; raise it, or the student could never say it either"
            )
        self._lengths[request.conversation] += len(ids)
        return Completion(ids, [float("nan")] * len(ids), Stop.END)

    def _take_in(self, request: Request) -> int:
        """The length of the conversation with what is new in it, in tokens."""
        self._lengths[request.conversation] = self._lengths.get(request.conversation, 0) + len(request.tokens)
        return self._lengths[request.conversation]

    def release(self, conversations: Sequence[int]) -> None:
        for conversation in conversations:
            self._lengths.pop(conversation, None)

    def append(self, requests: Sequence[Request], counts: Sequence[int]) -> list[np.ndarray]:
        if any(counts):
            raise NotImplementedError("the oracle has no opinion of an action once the environment has taken it")
        for request in requests:
            self._take_in(request)
        return [np.zeros(0, dtype=np.float32) for _ in requests]

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        raise NotImplementedError("the oracle has no weights")

    def logprobs(self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int) -> list[Scores]:
        raise NotImplementedError("the oracle scores trajectories, not sequences of tokens")
