"""Typed run configuration: a recipe is refused here, with a readable message, before any model loads.

Invariant: a `RunConfig` that exists is free of contradictions that can be seen without opening a model or an
environment, and `dump_config` writes it out in full, so that the file in a run directory says the same after defaults
have changed.
"""

from trpd_agents.config.load import dump_config, load_config, parse_config
from trpd_agents.config.method import MethodConfig
from trpd_agents.config.run import RunConfig
from trpd_agents.config.sections import (
    EnvConfig,
    EvaluationConfig,
    ImitationConfig,
    LearnerConfig,
    LocalTeacherConfig,
    ModelConfig,
    OracleTeacherConfig,
    RolloutConfig,
    Section,
    TeacherConfig,
    TrainingConfig,
)

__all__ = [
    "EnvConfig",
    "EvaluationConfig",
    "ImitationConfig",
    "LearnerConfig",
    "LocalTeacherConfig",
    "MethodConfig",
    "ModelConfig",
    "OracleTeacherConfig",
    "RolloutConfig",
    "RunConfig",
    "Section",
    "TeacherConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
