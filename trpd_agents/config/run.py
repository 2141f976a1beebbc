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
    TrainingConfig,
)
from trpd_agents.config.teachers import TeacherConfig
from trpd_agents.config.tracking import TrackingConfig


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
    tracking: TrackingConfig = TrackingConfig()
    report: bool = True  # `trpd train` writes it when it ends; see `trpd report`

    @property
    def top_k(self) -> int:
        """How many of its most likely tokens the teacher returns per position: as many as the method reads, or as are
        kept for people to look at."""
        forward_kl = self.credit.method.forward_kl
        return max(forward_kl.top_k if forward_kl is not None else 0, self.training.save_top_k)

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
        problems += self._beyond_the_teacher()
        problems += self._playing_ahead()
        most = self._most_optimizer_steps
        if self.learner.warmup_steps > most:
            message = (
                f"at most the run's {most} optimiser steps wanted, found {self.learner.warmup_steps}: "
                "the learning rate would never be reached"
            )
            problems.append(("learner.warmup_steps", message))
        budget = self.learner.token_budget
        if budget != "auto" and self.rollout.max_tokens > budget:
            message = (
                f"at least rollout.max_tokens ({self.rollout.max_tokens}) wanted, found {budget}: the longest "
                "trajectory would not fit into a micro-batch; or set it to auto"
            )
            problems.append(("learner.token_budget", message))
        if self.rollout.engine.kind != "transformers" and self.training.ranks > 1:
            message = (
                f"1 wanted with rollout.engine.kind={self.rollout.engine.kind}, found {self.training.ranks}: each rank "
                "would start an engine of its own; set it to 1, or take the engine 'transformers'"
            )
            problems.append(("training.ranks", message))
        if self.learner.correction.kind == "truncate" and self.credit.method.exact:
            message = (
                f"the estimator '{self.credit.method.estimator.kind}' takes the expectation over all tokens at each "
                "position, which a ratio of the one that was sampled would only disturb; 'mask' or 'none' wanted, or "
                "credit.estimator=sampled; found 'truncate'"
            )
            problems.append(("learner.correction.kind", message))
        if problems:
            raise Problems(problems)
        return self

    def _playing_ahead(self) -> list[tuple[str, str]]:
        """What does not go together with playing the next episodes while these are learned from."""
        if not self.training.staleness:
            return []
        problems = []
        if self.credit.method.guidance.kind != "none":
            message = (
                f"'none' wanted with training.staleness=1, found '{self.credit.method.guidance.kind}': the teacher "
                "cannot play and score at the same time; set one of the two back"
            )
            problems.append(("credit.guidance.kind", message))
        if not self.credit.method.exact and self.learner.correction.kind == "none":
            message = (
                "'truncate' or 'mask' wanted with training.staleness=1 and an estimator from sampled tokens: they are "
                "sampled with the weights of one update before, which the ratio makes up for; found 'none'"
            )
            problems.append(("learner.correction.kind", message))
        if getattr(self.rollout.engine, "sleep", False):
            message = "false wanted with training.staleness=1, found true: the engine is never at rest"
            problems.append(("rollout.engine.sleep", message))
        return problems

    def _beyond_the_teacher(self) -> list[tuple[str, str]]:
        """What the method reads of a whole distribution, if the teacher returns its most likely tokens only."""
        if getattr(self.teacher, "whole_distribution", True):
            return []
        kind, method = self.teacher.kind, self.credit.method
        only = f"a teacher of kind '{kind}' returns its most likely tokens only"
        problems = []
        if method.exact:
            message = (
                f"'{method.estimator.kind}' sums over the teacher's whole distribution, but {only}; set it to "
                "'sampled', with forward KL on the teacher's top tokens beside it if wanted "
                "(credit.outlier.kind=forward_kl), or take a teacher of kind 'local'"
            )
            problems.append(("credit.estimator.kind", message))
        if method.outlier.kind == "entropy":
            message = (
                f"'entropy' reads the entropy of the teacher's whole distribution, but {only}; set it to 'forward_kl', "
                "or take a teacher of kind 'local'"
            )
            problems.append(("credit.outlier.kind", message))
        return problems
