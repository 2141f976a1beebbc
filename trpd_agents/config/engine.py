"""The `rollout.engine` section: what samples the student's actions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from trpd_agents.config.base import Count, Flag, Name, NonNegative, Positive, Section, by_kind
from trpd_agents.config.server import checked_url


class VLLMEngineConfig(Section):
    """vLLM in this process, with weights of its own that are replaced after every update."""

    kind: Literal["vllm"] = "vllm"
    memory_share: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.4  # of the device's: its weights and cache
    max_parallel: Count = 256  # conversations decoded at once
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA, float32 on the CPU
    enforce_eager: Flag = False  # no CUDA graphs: starts sooner, decodes more slowly
    sleep: Flag = False  # give its memory to scoring and update, which share the GPU
    max_gap: Positive = 0.1  # nats per token between its log-probabilities and the trainer's; beyond it the run stops


class VLLMServerConfig(Section):
    """A vLLM server that is there for this student: new weights reach it through a directory."""

    kind: Literal["vllm_server"] = "vllm_server"
    url: Annotated[Name, AfterValidator(checked_url)]  # up to and including /v1
    weights: Name  # a directory that this process writes and the server reads
    max_parallel: Count = 64  # requests at once
    patience_seconds: NonNegative = 600.0  # how long a server may be away before the run stops
    max_gap: Positive = 0.1  # as above


class TransformersEngineConfig(Section):
    """The model that is trained samples itself, or a copy of it in lower precision does."""

    kind: Literal["transformers"] = "transformers"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the learner computes in it
    cuda_graphs: Flag = False  # replay the decoding pass, on a GPU
    max_gap: Positive = 0.1  # as above


def _transformers_unless_said(value: object) -> object:
    value = by_kind(value)
    return {"kind": "transformers", **value} if isinstance(value, dict) else value


EngineConfig = Annotated[
    TransformersEngineConfig | VLLMEngineConfig | VLLMServerConfig,
    Discriminator("kind"),
    BeforeValidator(_transformers_unless_said),
]
