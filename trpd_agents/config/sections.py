"""The sections of a run configuration, one class each.

Counts are in the unit their name says; durations are seconds; lengths are tokens.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trpd_agents.config.base import Beta, Count, Flag, Name, Natural, NonNegative, Positive, Section
from trpd_agents.config.correction import Correction
from trpd_agents.config.engine import EngineConfig
from trpd_agents.config.lora import LoraConfig
from trpd_agents.config.problems import Problems


def _worker_count(value: object) -> object:
    """`value` if it is one. Raises ValueError: a union's own message would name both of its members."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"'auto' or a whole number of at least 0 wanted, found {value!r}")


class EnvConfig(Section):
    """Which environment is played: a registered id, `module:Id-v0` or `path/file.py:Class`, with keyword arguments."""

    id: Name
    kwargs: dict[str, Any] = Field(default_factory=dict)
    max_turns: Count | None = None  # None: the environment's own limit
    # processes; 0: none; auto: unless it declares that it needs none
    workers: Annotated[Literal["auto"] | int, BeforeValidator(_worker_count)] = "auto"
    step_seconds: Positive = 10.0  # for one reset or step
    memory_mb: Count | None = 4096  # that the data of one worker may take, MiB


class ImitationConfig(Section):
    """A start by imitating the environment's scripted expert: supervised updates before anything else happens."""

    demonstrations: Count  # expert episodes to collect
    updates: Count  # optimiser steps
    batch: Count  # episodes per optimiser step
    lr: Positive
    seed: Natural = 0
    mistakes: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # share of turns played at random, not imitated


class ModelConfig(Section):
    """A causal language model: `builtin:NAME`, a local directory or a hub id."""

    model: Name
    imitation: ImitationConfig | None = None
    trust_remote_code: Flag = False


_TRUNCATING = ("top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def _refuse_rescaled_temperature(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value != 1:
        raise ValueError(
            "training samples at temperature 1: at any other the sampled tokens do not follow the policy whose "
            "log-probabilities enter the log ratio; remove the key or set it to 1.0"
        )
    return value


class RolloutConfig(Section):
    """How episodes are sampled. Sampling is from the full distribution; see `temperature`."""

    engine: EngineConfig = Field(default="transformers", validate_default=True)
    temperature: Annotated[Positive, BeforeValidator(_refuse_rescaled_temperature)] = 1.0
    max_new_tokens: Count = 32  # per action
    max_tokens: Count = 2048  # whole conversation, the context limit
    episode_seconds: Positive = 300.0

    @model_validator(mode="before")
    @classmethod
    def _refuse_truncated_sampling(cls, data: Any) -> Any:
        found = [key for key in _TRUNCATING if isinstance(data, dict) and key in data]
        if found:
            why = (
                "truncated sampling is refused: it renormalises what is left of the distribution, which biases every "
                "log ratio by the log of the mass that was kept; remove the key to sample from the full distribution"
            )
            raise Problems([(key, why) for key in found])
        return data

    @model_validator(mode="after")
    def _action_fits_context(self) -> RolloutConfig:
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError(
                f"max_new_tokens ({self.max_new_tokens}) must be smaller than max_tokens ({self.max_tokens}): "
                "an action and the observation before it share the context"
            )
        return self


class LearnerConfig(Section):
    """The optimiser (AdamW) and how a batch is cut up for it."""

    lr: Positive
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    warmup_steps: Natural = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    grad_clip: Positive = 1.0
    token_budget: Count | Literal["auto"] = "auto"  # tokens per micro-batch; auto: 2,048 on a CPU, 16,384 elsewhere
    activation_checkpointing: Flag = False  # compute layers a second time instead of keeping what they computed
    lora: LoraConfig | None = None  # train adapters; None: all weights
    epochs_per_batch: Count = 1  # passes over a batch of episodes
    minibatches: Count = 1  # optimiser steps in one pass, each on its share of the episodes
    clip_ratio: Positive = 0.2  # PPO clipping of pi_now / pi_sampling
    correction: Correction = Field(default="none", validate_default=True)  # where the sampler is not the trainer
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class TrainingConfig(Section):
    """The loop: how long it runs, how many episodes an update is made of, and what is written down when."""

    steps: Count | None = None  # optimiser batches: one rollout of `episodes_per_step` each
    environment_steps: Count | None = None  # or turns played in training; the update that reaches them is the last
    episodes_per_step: Count
    group_size: Count = 1  # episodes per environment seed
    checkpoint_every: Count = 50  # steps
    keep_checkpoints: Count = 2
    ranks: Count = 1  # data-parallel processes
    save_trajectories_every: Natural = 10  # steps; 0: never
    save_top_k: Natural = 0  # of the teacher's most likely tokens that are stored with them
    doctor: Flag = True  # begin with the checks of `trpd doctor` that take a moment
    staleness: Literal[0, 1] = 0  # 1: the next episodes are played while these are learned from

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if (self.steps is None) == (self.environment_steps is None):
            wanted = "exactly one of steps and environment_steps wanted, which says how long the run is; found"
            if self.steps is None:
                raise ValueError(f"{wanted} neither")
            raise ValueError(f"{wanted} {self.steps} and {self.environment_steps}: set one of them to null")
        return self

    @model_validator(mode="after")
    def _episodes_divide(self) -> TrainingConfig:
        if self.episodes_per_step % self.group_size:
            raise ValueError(
                f"group_size ({self.group_size}) must divide episodes_per_step ({self.episodes_per_step}): "
                "every environment seed is played group_size times"
            )
        if self.episodes_per_step < self.ranks:
            raise ValueError(
                f"episodes_per_step ({self.episodes_per_step}) is smaller than ranks ({self.ranks}): "
                "a process would have no episode to play; raise the one or lower the other"
            )
        return self

    def progress(self, steps: int, environment_steps: int) -> float:
        """Share of the run that is done after so many updates and turns played; 1 when it is over."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.environment_steps is not None
        return min(1.0, environment_steps / self.environment_steps)


class EvaluationConfig(Section):
    """Held-out episodes: seeds `seed`, `seed + 1`, ... are kept out of training."""

    episodes: Count = 256
    seed: Natural = 1_000_000
    every: Natural = 0  # steps; 0: only before and after training
    every_environment_steps: Natural = 0  # likewise in turns played in training
    before: Flag = True  # evaluate the student before training
    teacher: Flag = True  # evaluate the teacher
