"""The engine that a run's configuration asks for."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import ExitStack

import torch

from trpd_agents.config import ModelConfig, RolloutConfig
from trpd_agents.config.engine import TransformersEngineConfig, VLLMEngineConfig, VLLMServerConfig
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.captured import CudaGraphs
from trpd_agents.rollout.engine import StudentEngine
from trpd_agents.rollout.transformers_engine import TransformersEngine
from trpd_agents.rollout.vllm_engine import VLLMEngine
from trpd_agents.rollout.vllm_process import require_served, require_vllm
from trpd_agents.rollout.vllm_server_engine import VLLMServerEngine, ask_for_model
from trpd_agents.rollout.weight_probe import MAX_GAP


def open_engine(
    config: RolloutConfig, lm: LanguageModel, opened: ExitStack, *, own_weights: bool = False
) -> StudentEngine:
    """An engine that samples with the weights `lm` has now; what it holds is given back when `opened` closes.

    With `own_weights` it goes on doing so while `lm` is trained, until it is given others.
    """
    if isinstance(config.engine, VLLMEngineConfig):
        engine = VLLMEngine(lm, config.engine, config.max_tokens)
        opened.callback(engine.close)
        return engine
    if isinstance(config.engine, VLLMServerConfig):
        server = VLLMServerEngine(lm, config.engine, config.max_tokens)
        opened.callback(server.close)
        return server
    if own_weights:
        lm = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    return TransformersEngine(lm, CudaGraphs() if config.engine.cuda_graphs else None)


def max_gap(config: RolloutConfig) -> float:
    """How far apart, in nats per token, the log-probabilities of engine and trainer may be."""
    return MAX_GAP if isinstance(config.engine, TransformersEngineConfig) else config.engine.max_gap


def check_engine(config: RolloutConfig, source: str, model: ModelConfig, device: torch.device) -> None:
    """Refuse an engine that cannot serve the model at `source` on `device`; no weights are read.

    Raises:
        UserError: vLLM is not there or too old, or cannot compute with this model here; the server does not answer;
            CUDA graphs without CUDA.
    """
    if isinstance(config.engine, TransformersEngineConfig) and config.engine.cuda_graphs and device.type != "cuda":
        raise UserError(
            f"rollout.engine.cuda_graphs is true, but the student is on {device.type!r}; wanted a GPU "
            "(learner.device=cuda) or rollout.engine.cuda_graphs=false"
        )
    if isinstance(config.engine, VLLMEngineConfig):
        require_vllm(config.engine, device.type)
        require_served(source, model.trust_remote_code, device.type)
    if isinstance(config.engine, VLLMServerConfig):
        ask_for_model(config.engine, config.max_tokens)
