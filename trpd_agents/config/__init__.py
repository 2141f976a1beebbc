"""Typed run configuration: a recipe is refused here, with a readable message, before any model loads.

Invariant: a `RunConfig` that exists is free of contradictions that can be seen without opening a model or an
environment, and `dump_config` writes it out in full, so that the file in a run directory says the same after defaults
have changed.
"""

from trpd_agents.config.load import dump_config, load_config, parse_config
from trpd_agents.config.lora import LoraConfig
from trpd_agents.config.method import MethodConfig
from trpd_agents.config.more_teachers import Cached, HintedTeacherConfig
from trpd_agents.config.run import RunConfig
from trpd_agents.config.sections import (
    EnvConfig,
    EvaluationConfig,
    ImitationConfig,
    LearnerConfig,
    ModelConfig,
    RolloutConfig,
    Section,
    TrainingConfig,
)
from trpd_agents.config.server import ServerTeacherConfig
from trpd_agents.config.teachers import LocalTeacherConfig, OracleTeacherConfig, RoutedTeacherConfig, TeacherConfig

__all__ = [
    "Cached",
    "EnvConfig",
    "EvaluationConfig",
    "HintedTeacherConfig",
    "ImitationConfig",
    "LearnerConfig",
    "LocalTeacherConfig",
    "LoraConfig",
    "MethodConfig",
    "ModelConfig",
    "OracleTeacherConfig",
    "RolloutConfig",
    "RoutedTeacherConfig",
    "RunConfig",
    "Section",
    "ServerTeacherConfig",
    "TeacherConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
