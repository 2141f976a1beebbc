"""`RunConfig`: all sections together, and the contradictions that only show between two of them."""

from __future__ import annotations

import math

from pydantic import model_validator

from trpd_agents.config.method import MethodConfig
from trpd_agents.config.problems import Problems
from trpd_agents.config.sections import (
    EnvConfig,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    Natural,
    RolloutConfig,
    Section,
    TeacherConfig,
    TrainingConfig,
)


class RunConfig(Section):
    """Everything a training run needs to know. Equal configurations and equal seeds give equal runs."""

    seed: Natural = 0
    env: EnvConfig
    student: ModelConfig
    teacher: TeacherConfig
    rollout: RolloutConfig = RolloutConfig()
    credit: MethodConfig
    learner: LearnerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def top_k(self) -> int:
        """How many of its most likely tokens the teacher returns per position: as many as the method reads, else 0."""
        forward_kl = self.credit.method.forward_kl
        return forward_kl.top_k if forward_kl is not None else 0

    @property
    def _most_optimizer_steps(self) -> int:
        """Optimiser steps that the run has, or can have at most: an episode has at least one turn."""
        training = self.training
        steps = training.steps or math.ceil((training.environment_steps or 0) / training.episodes_per_step)
        return steps * self.learner.epochs_per_batch * self.learner.minibatches

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        problems = []
        guidance = self.credit.method.guidance.kind
        if guidance not in self.teacher.guidance:
            message = (
                f"a teacher of kind '{self.teacher.kind}' cannot guide by '{guidance}', only by "
                f"{', '.join(self.teacher.guidance)}; set it to one of these or take a teacher of kind 'local'"
            )
            problems.append(("credit.guidance.kind", message))
        most = self._most_optimizer_steps
        if self.learner.warmup_steps > most:
            message = (
                f"at most the run's {most} optimiser steps wanted, found {self.learner.warmup_steps}: "
                "the learning rate would never be reached"
            )
            problems.append(("learner.warmup_steps", message))
        if self.rollout.max_tokens > self.learner.token_budget:
            message = (
                f"at least rollout.max_tokens ({self.rollout.max_tokens}) wanted, found {self.learner.token_budget}: "
                "the longest trajectory would not fit into a micro-batch"
            )
            problems.append(("learner.token_budget", message))
        if problems:
            raise Problems(problems)
        return self
