"""A run of a tiny student, to be changed in any section, and a disk that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB, of a real file system."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs more rights: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)
