"""The engine that a run's configuration asks for."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import ExitStack

import torch

from trpd_agents.config import ModelConfig, RolloutConfig, RunConfig
from trpd_agents.config.engine import TransformersEngineConfig, VLLMEngineConfig, VLLMServerConfig
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel, has_bfloat16, pick_autocast
from trpd_agents.rollout.captured import CudaGraphs
from trpd_agents.rollout.engine import StudentEngine
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.rollout.student_weights import plain_copy
from trpd_agents.rollout.vllm_engine import VLLMEngine
from trpd_agents.rollout.vllm_process import require_served, require_vllm
from trpd_agents.rollout.vllm_server_engine import VLLMServerEngine, ask_for_model


def open_engine(config: RunConfig, lm: LanguageModel, opened: ExitStack) -> StudentEngine:
    """An engine that samples with the weights `lm` has now; what it holds is given back when `opened` closes.

    Where it shares them with `lm` it goes along as that is trained; one that plays ahead, or computes in another
    precision, samples with these until it is given others.

    Raises:
        UserError: CUDA graphs for a model that the transformers engine cannot play with.
    """
    settings, max_tokens = config.rollout.engine, config.rollout.max_tokens
    if isinstance(settings, VLLMEngineConfig):
        engine = VLLMEngine(lm, settings, max_tokens)
        opened.callback(engine.close)
        return engine
    if isinstance(settings, VLLMServerConfig):
        server = VLLMServerEngine(lm, settings, max_tokens)
        opened.callback(server.close)
        return server
    if samples_in_bfloat16(settings, config.learner.dtype, lm.device):
        lm = plain_copy(lm, torch.bfloat16)
    elif config.training.staleness:
        lm = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    return local_engine(lm, CudaGraphs() if settings.cuda_graphs else None)


def samples_in_bfloat16(settings: TransformersEngineConfig, learner_dtype: str, device: torch.device) -> bool:
    """Whether the transformers engine plays with a copy in bfloat16; `auto`: where the learner computes in it."""
    if settings.dtype == "auto":
        return pick_autocast(learner_dtype, device)
    return settings.dtype == "bfloat16"


def check_engine(config: RolloutConfig, source: str, model: ModelConfig, device: torch.device) -> None:
    """Refuse an engine that cannot serve the model at `source` on `device`; no weights are read.

    Raises:
        UserError: vLLM is not there or too old, or cannot compute with this model here; the server does not answer;
            CUDA graphs without CUDA, or bfloat16 where the device does not have it.
    """
    if isinstance(config.engine, TransformersEngineConfig) and config.engine.cuda_graphs and device.type != "cuda":
        raise UserError(
            f"rollout.engine.cuda_graphs is true, but the student is on {device.type!r}; wanted a GPU "
            "(learner.device=cuda) or rollout.engine.cuda_graphs=false"
        )
    wants_bfloat16 = isinstance(config.engine, TransformersEngineConfig) and config.engine.dtype == "bfloat16"
    if wants_bfloat16 and not has_bfloat16(device):
        raise UserError(
            f"rollout.engine.dtype is bfloat16, but {device.type} here cannot compute in it; wanted float32, or auto, "
            "which follows learner.dtype"
        )
    if isinstance(config.engine, VLLMEngineConfig):
        require_vllm(config.engine, device.type)
        require_served(source, model.trust_remote_code, device.type)
    if isinstance(config.engine, VLLMServerConfig):
        ask_for_model(config.engine, config.max_tokens)
