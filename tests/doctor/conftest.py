"""A run of tiny models before its first step, whole or with one thing wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trpd_agents.config import RunConfig
from trpd_agents.config.load import parse_config
from trpd_agents.doctor.subject import Subject
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import TransformersEngine
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv.pool import InProcess

Configure = Callable[..., RunConfig]

ENVS = '''
import gymnasium
from trpd_envs import Text

class Short(gymnasium.Env):
    """Say something of at most three characters. Nothing but a habit of ending turns soon is needed."""
    observation_space = action_space = Text(4000)
    max_turns = 2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return f"Be short, {self.np_random.integers(1000)}.", {}

    def step(self, action):
        self.turn += 1
        short = len(action) <= 3
        return "Go on.", float(short), False, self.turn >= 2, {"success": short, "ok": short}

class Silent(Short):
    def step(self, action):
        observation, _, *flags, _ = super().step(action)
        return observation, 0.0, *flags, {}
'''


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "envs_here.py"
    path.write_text(ENVS)
    return path


@pytest.fixture(scope="session")
def configure(model_directory: Callable[..., Path]) -> Configure:
    def build(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, Any] = {
            "env": {"id": "GuessNumber-v0", "kwargs": {"high": 9, "max_turns": 4}, "workers": 0},
            "student": {"model": str(model_directory(0))},
            "teacher": {"model": str(model_directory(1))},
            "rollout": {"max_new_tokens": 8, "max_tokens": 400},
            "credit": {"preset": "trajectory"},
            "learner": {"lr": 1e-2, "device": "cpu"},
            "training": {"steps": 2, "episodes_per_step": 4},
            "evaluation": {"episodes": 4},
        }
        for name, change in changes.items():
            sections[name] = {**sections[name], **change}
        return parse_config(sections)

    return build


def twin(lm: LanguageModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(lm.model), copy.deepcopy(lm.tokenizer), lm.ref)


@pytest.fixture
def make_subject(configure: Configure, make_lm: Callable[..., LanguageModel]) -> Callable[..., Subject]:
    """`make_subject(engine=..., teacher=..., env=...)`: with 32 sampled beginnings of episodes."""

    def build(engine: Any = None, teacher: Any = None, **changes: Any) -> Subject:
        config = configure(**changes)
        student, lm = twin(make_lm(0)), twin(make_lm(1))
        subject = Subject(
            config,
            student,
            LocalTeacher(lm) if teacher is None else teacher(lm),
            {"": lm},
            TransformersEngine(student) if engine is None else engine(student),
            InProcess(),
            4,
        )
        subject.sampled = subject.play(32)
        return subject

    return build
