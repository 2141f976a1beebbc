"""The student behind a vLLM server of its own: another process, another GPU, or another machine with the same files.

Conversations go there as token ids and come back as ids and log-probabilities. New weights go through a directory that
both sides see: they are written as safetensors, and the server is told to take them. For this the server needs vLLM's
development routes and our extension of its worker; `SERVER_FLAGS` says how it is started. Whoever reaches such a server
can change what it serves: it belongs on a trusted network.

Invariant: as in `vllm_engine`, nothing computed with the old weights is left after `load_weights`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from trpd_agents.config.engine import VLLMServerConfig
from trpd_agents.errors import RunError, UserError
from trpd_agents.lora import plain_state
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Completion, Request, Sampling
from trpd_agents.rollout.whole_conversations import WholeConversations, draw_seed, require_names
from trpd_agents.teacher.dialects import Dialect, nats, only_choice, read_scores, scoring_request
from trpd_agents.teacher.generation import generated_ids, generation_request
from trpd_agents.teacher.http import BadAnswer, Endpoint, EndpointError, Refused
from trpd_agents.trajectory import Scores, Stop

SERVER_FLAGS = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode raw_logprobs --generation-config vllm "
    "--worker-extension-cls trpd_agents.rollout.vllm_worker.TakesWeights"
)


class VLLMServerEngine(WholeConversations):
    """Samples with the model behind `settings.url`, which gets the weights of `lm` at once, adapters merged.

    Args:
        max_tokens: of the longest conversation, its last action included.

    Raises:
        UserError: no server there, one that takes no weights, or not with this context or these weights.
    """

    def __init__(self, lm: LanguageModel, settings: VLLMServerConfig, max_tokens: int):
        super().__init__()
        self.settings = settings
        state = plain_state(lm.model)
        self._names = frozenset(state)
        self._endpoint = Endpoint(settings.url, patience=settings.patience_seconds, max_parallel=settings.max_parallel)
        self._model = ask_for_model(settings, max_tokens)
        try:
            self.load_weights(state, 0)
        except RunError as error:
            raise UserError(f"rollout.engine.url={settings.url}: {error}") from None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Continue every request's conversation by one action."""
        prompts = [self._hear(request) for request in requests]
        bodies = [
            generation_request(
                Dialect.PROMPT_LOGPROBS,
                self._model,
                prompt,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=draw_seed(sampling, request.key, len(prompt), bits=31),
                end_ids=sampling.end_ids,
            )
            | {"ignore_eos": True}
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        completions = []
        try:
            for prompt, answer in zip(prompts, self._endpoint.post_all("completions", bodies), strict=True):
                ids = generated_ids(answer)
                values = _own_logprobs(answer, len(ids))
                prompt.extend(ids)
                completions.append(Completion(ids, values, Stop.END if ids[-1] in sampling.end_ids else Stop.LENGTH))
        except EndpointError as error:
            raise self._lost(error) from None
        return completions

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        asked = [i for i, at in enumerate(positions) if len(at)]
        sent = [np.asarray(sequences[i][: int(np.max(positions[i])) + 1]) for i in asked]
        results = [Scores(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)) for _ in sequences]
        bodies = [scoring_request(Dialect.PROMPT_LOGPROBS, self._model, tokens.tolist(), top_k) for tokens in sent]
        try:
            answers = self._endpoint.post_all("completions", bodies) if bodies else []
            for i, tokens, answer in zip(asked, sent, answers, strict=True):
                results[i] = read_scores(Dialect.PROMPT_LOGPROBS, answer, tokens, np.asarray(positions[i]), top_k)
        except EndpointError as error:
            raise self._lost(error) from None
        return results

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace the server's weights by the trainer's `state`, plain, named as transformers names them.

        Raises:
            RunError: they are another model's, or the server does not take them.
        """
        require_names(state, self._names)
        folder = Path(self.settings.weights).resolve() / f"student-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        distinct = {tensor.data_ptr(): name for name, tensor in reversed(list(state.items()))}  # tied weights once
        save_file(
            {name: state[name].detach().cpu().contiguous() for name in distinct.values()}, folder / "model.safetensors"
        )
        try:
            self._endpoint.post("/collective_rpc", {"method": "take_weights", "args": [str(folder)]})
            if self._endpoint.post("/reset_prefix_cache", {}).get("success") is not True:
                raise BadAnswer("its prefix cache could not be emptied: somebody else is using this server")
        except Refused as error:
            raise RunError(
                f"the server does not take weights ({error}); start it with: {SERVER_FLAGS}, and let it see {folder}"
            ) from None
        except EndpointError as error:
            raise self._lost(error) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.version = version

    def close(self) -> None:
        self._endpoint.close()

    def _lost(self, error: EndpointError) -> RunError:
        return RunError(
            f"the student's server at {self.settings.url}: {error}. Once it is as it was, go on with: trpd train "
            "--resume RUN_DIR"
        )


def ask_for_model(settings: VLLMServerConfig, max_tokens: int) -> str:
    """The name of the one model that the server has.

    Raises:
        UserError: nobody answers, or its context is too short.
    """
    endpoint = Endpoint(settings.url, patience=0.0)
    try:
        (model,) = endpoint.get("models")["data"]
        name, context = str(model["id"]), model.get("max_model_len")
    except EndpointError as error:
        raise UserError(f"rollout.engine.url: {error}; start the server with: {SERVER_FLAGS}") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"rollout.engine.url={settings.url}: one model wanted that it serves, found none or several"
        ) from None
    finally:
        endpoint.close()
    if isinstance(context, int) and context <= max_tokens:
        raise UserError(
            f"rollout.engine.url={settings.url}: the server's context is {context} tokens, wanted rollout.max_tokens "
            f"({max_tokens}) and one more; start it with --max-model-len {max_tokens + 1}"
        )
    return name


def _own_logprobs(answer: Mapping[str, object], count: int) -> list[float]:
    logprobs = only_choice(answer).get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(values, list) or len(values) != count:
        raise BadAnswer(f"log-probabilities of the {count} tokens it generated wanted, found {values!r:.80}")
    return [nats(value) for value in values]
