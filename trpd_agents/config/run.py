"""`RunConfig`: all sections together, and the contradictions that only show between two of them."""

from __future__ import annotations

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
    def optimizer_steps(self) -> int:
        """Optimiser steps in the whole run, which the learning rate's schedule spans."""
        return self.training.steps * self.learner.epochs_per_batch * self.learner.minibatches

    @property
    def top_k(self) -> int:
        """How many of its most likely tokens the teacher returns per position: as many as the method reads, else 0."""
        return int(getattr(self.credit.method.outlier, "top_k", 0))

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        problems = []
        guidance = self.credit.method.guidance.kind
        if guidance != "none" and not self.teacher.can_act:
            message = (
                f"'{guidance}' lets the teacher play, but a teacher of kind '{self.teacher.kind}' only scores; "
                "set it to 'none' or take a teacher that can act (kind 'local')"
            )
            problems.append(("credit.guidance.kind", message))
        if self.learner.warmup_steps > self.optimizer_steps:
            message = (
                f"at most the run's {self.optimizer_steps} optimiser steps wanted, found {self.learner.warmup_steps}: "
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
