"""A run of a tiny student, to be changed in any section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trpd_agents.config import RunConfig
from trpd_agents.config.load import parse_config

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def configure(model_directory) -> Configure:
    """`configure(**sections)`: a run of four steps on a number that is easy to guess; sections are merged in."""

    def build(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, Any] = {
            "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}},
            "student": {"model": str(model_directory(0))},
            "teacher": {"model": str(model_directory(1))},
            "rollout": {"max_new_tokens": 3, "max_tokens": 200},
            "credit": {"preset": "trajectory"},
            "learner": {"lr": 1e-2, "warmup_steps": 1, "schedule": "linear", "device": "cpu"},
            "training": {"steps": 4, "episodes_per_step": 8, "group_size": 2, "save_trajectories_every": 2},
            "evaluation": {"episodes": 8},
        }
        for name, change in changes.items():
            sections[name] = {**sections[name], **change}
        return parse_config(sections)

    return build
