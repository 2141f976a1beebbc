"""The vLLM engine: token ids in, token ids and log-probabilities out, with weights of its own.

A conversation is a list of ids that only grows; every request sends the whole of it, and vLLM's prefix cache makes what
it has seen before nearly free. Sampling is from the full distribution, and reported log-probabilities are the model's
own, before any temperature. Draws are seeded by (seed, key, position), so a run can be repeated on the same machine;
they are not those of another engine.

Invariant: after `load_weights` nothing computed with the old weights is left, prefix cache included. Whether the new
ones arrived is not taken on trust: see `weight_probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trpd_agents.config.engine import VLLMEngineConfig
from trpd_agents.errors import RunError
from trpd_agents.lora import plain_state
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.rollout.vllm_process import load_into, require_vllm, start, stop
from trpd_agents.rollout.whole_conversations import WholeConversations, draw_seed, require_names
from trpd_agents.trajectory import Scores, Stop


class VLLMEngine(WholeConversations):
    """Samples with a copy of `lm` in vLLM, in this process; adapters are merged into it.

    Args:
        max_tokens: of the longest conversation, its last action included.

    Raises:
        UserError: vLLM is not installed, too old, or cannot serve this model as asked.
    """

    def __init__(self, lm: LanguageModel, settings: VLLMEngineConfig, max_tokens: int):
        super().__init__()
        self.settings = settings
        self._vllm = require_vllm(settings, lm.device.type)
        self._names = frozenset(plain_state(lm.model))
        self._llm = start(lm, settings, max_tokens)
        self._asleep = False

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Continue every request's conversation by one action."""
        prompts = [self._hear(request) for request in requests]
        params = [
            self._params(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                stop_token_ids=sorted(sampling.end_ids),
                seed=draw_seed(sampling, request.key, len(prompt), bits=53),
            )
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        completions = []
        for prompt, found in zip(prompts, self._run(prompts, params), strict=True):
            out = found.outputs[0]
            ids = [int(token) for token in out.token_ids]
            values = [float(entry[token].logprob) for entry, token in zip(out.logprobs, ids, strict=True)]
            prompt.extend(ids)
            completions.append(Completion(ids, values, Stop.END if ids[-1] in sampling.end_ids else Stop.LENGTH))
        return completions

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace the weights by the trainer's `state`, plain, named as transformers names them.

        Raises:
            RunError: these are not the weights of the model that the engine was started with, or vLLM fails on them.
        """
        require_names(state, self._names)
        self._wake()
        load_into(self._llm, state)
        self._llm.reset_prefix_cache()
        self.version = version

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        """Scores of `sequences[i][positions[i]]`, each position at least 1.

        The token that comes last is not part of the prompt, which so never exceeds the context: vLLM is made to sample
        it, and reports what its probability was before that.
        """
        asked = [i for i, at in enumerate(positions) if len(at)]
        ends = [int(np.max(positions[i])) for i in asked]
        prompts = [[int(t) for t in sequences[i][:end]] for i, end in zip(asked, ends, strict=True)]
        params = [
            self._params(
                max_tokens=1,
                temperature=0.0,
                logprobs=top_k,
                prompt_logprobs=top_k,
                allowed_token_ids=[int(sequences[i][end])],
            )
            for i, end in zip(asked, ends, strict=True)
        ]
        results = [Scores(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)) for _ in sequences]
        for i, found in zip(asked, self._run(prompts, params), strict=True):
            told = [*found.prompt_logprobs, *found.outputs[0].logprobs]
            results[i] = _scores(np.asarray(sequences[i]), np.asarray(positions[i], dtype=np.int64), told, top_k)
        return results

    def rest(self) -> None:
        """Give the device's memory to others until the next call, if that was asked for."""
        if self.settings.sleep and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """End the engine and free its memory."""
        self._said.clear()
        stop(self._llm)
        del self._llm

    def _params(self, **given: Any) -> Any:
        full = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "ignore_eos": True, "detokenize": False, "logprobs": 0}
        return self._vllm.SamplingParams(**{**full, **given})

    def _run(self, prompts: Sequence[list[int]], params: Sequence[Any]) -> list[Any]:
        if not prompts:
            return []
        self._wake()
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            return list(self._llm.generate(given, list(params), use_tqdm=False))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise RunError(
                f"vLLM failed ({type(error).__name__}: {reason}). All that was written before is "
                "whole; go on with: trpd train --resume RUN_DIR"
            ) from error

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


def _scores(sequence: np.ndarray, positions: np.ndarray, told: Sequence[Any], top_k: int) -> Scores:
    """`told[t]` maps ids to log-probabilities of the token at t: the token itself and the `top_k` most likely."""
    lt = np.array([told[t][int(sequence[t])].logprob for t in positions], dtype=np.float32)
    if not top_k:
        return Scores(positions, lt)
    ranked = [
        sorted(((entry.logprob, token) for token, entry in told[t].items() if entry.rank <= top_k), reverse=True)
        for t in positions
    ]
    return Scores(
        positions,
        lt,
        top_ids=np.array([[token for _, token in row[:top_k]] for row in ranked], dtype=np.int32),
        top_lt=np.array([[value for value, _ in row[:top_k]] for row in ranked], dtype=np.float32),
    )
