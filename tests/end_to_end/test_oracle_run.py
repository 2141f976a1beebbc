"""Whole runs under the oracle: no model is made for it, and everything a method can ask of a teacher works."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trpd_agents import training
from trpd_agents.config import RunConfig
from trpd_agents.config.load import parse_config
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted
from trpd_agents.storage import read_trajectories
from trpd_agents.teacher import optimal_at_turns
from trpd_agents.training import train

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def configure(model_directory) -> Configure:
    """`configure(**sections)`: two steps on a small lake; sections are merged in."""

    def build(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, Any] = {
            "env": {"id": "GridLake-v0", "kwargs": {"size": 3, "holes": 1, "max_turns": 4}},
            "student": {"model": str(model_directory(0))},
            "teacher": {"kind": "oracle"},
            "rollout": {"max_new_tokens": 6, "max_tokens": 300},
            "credit": {"preset": "trajectory"},
            "learner": {"lr": 1e-3, "device": "cpu"},
            "training": {"steps": 2, "episodes_per_step": 6, "save_trajectories_every": 1},
            "evaluation": {"episodes": 8},
        }
        for name, change in changes.items():
            sections[name] = {**sections[name], **change}
        return parse_config(sections)

    return build


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def steady(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if "second" not in k} for line in metrics(path)]


def test_two_steps_with_exact_reverse_kl(configure, tmp_path):
    summary = train(configure(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "teacher").exists()
    assert summary["teacher"]["success_rate"] == 1.0 and summary["teacher"]["episodes"] == 8
    lines = metrics(tmp_path / "run")
    assert len(lines) == 2 and all(np.isfinite(line["reverse_kl"]) and line["reverse_kl"] > 0 for line in lines)
    stored = read_trajectories(tmp_path / "run" / "trajectories" / "step-000002.parquet")
    for trajectory in stored:
        assert trajectory.scores is not None
        assert np.array_equal(trajectory.scores.positions, trajectory.action_positions())
        assert len(optimal_at_turns(trajectory)) == len(trajectory.turns)


def test_forward_kl_and_guidance_by_the_expert(configure, tmp_path):
    credit = {"preset": "tropd", "outlier": {"top_k": 4}, "guidance": {"turns": 9, "schedule": "constant"}}
    train(configure(credit=credit), tmp_path / "run", quiet=True)
    for number, line in enumerate(metrics(tmp_path / "run"), 1):
        assert line["success"] == 1.0 and line["guided_tokens"] > 0 and line["action_tokens"] == 0
        played = read_trajectories(tmp_path / "run" / "trajectories" / f"step-{number:06d}.parquet")
        assert {turn.author for t in played for turn in t.turns} == {"teacher"}
        for trajectory in played:
            options = optimal_at_turns(trajectory)
            assert all(o.is_optimal(turn.text) for o, turn in zip(options, trajectory.turns, strict=True))
            assert trajectory.scores is not None and trajectory.scores.top_ids is not None
            assert np.isfinite(trajectory.scores.lt).all() and np.isnan(trajectory.logprobs).all()
    texts = {turn.text for t in played for turn in t.turns}
    assert len(texts) > 1  # of several equally good moves it does not always take the first


def test_a_mixed_plan_of_turns(configure, tmp_path):
    credit = {"preset": "opd", "guidance": {"kind": "bernoulli", "until": 1.0}}
    train(configure(credit=credit, training={"steps": 4}), tmp_path / "run", quiet=True)
    authors = {
        turn.author
        for path in (tmp_path / "run" / "trajectories").iterdir()
        for t in read_trajectories(path)
        for turn in t.turns
    }
    assert authors == {"student", "teacher"}


def test_an_interrupted_run_goes_on(configure, tmp_path, monkeypatch):
    config = configure(training={"steps": 3})
    train(config, tmp_path / "whole", quiet=True)
    record = training.record

    def interrupted(*arguments: Any) -> None:
        record(*arguments)
        if arguments[4] == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training, "record", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", quiet=True)
    train(config, resume=tmp_path / "cut", quiet=True)
    assert steady(tmp_path / "cut") == steady(tmp_path / "whole")


def test_an_environment_that_its_seed_does_not_decide_stops_the_run(configure, tmp_path):
    source = (
        "import itertools\nfrom trpd_envs.gridlake import GridLake\n\n"
        "class Counting(GridLake):\n    count = itertools.count()\n\n"
        "    def view(self):\n        return f'{super().view()}\\n{next(self.count)}'\n"
    )
    (tmp_path / "counting.py").write_text(source)
    env = {"id": f"{tmp_path / 'counting.py'}:Counting", "kwargs": {"size": 3}}
    with pytest.raises(RunError, match=r"counting\.py:Counting is not deterministic under its seed"):
        train(configure(env=env), tmp_path / "run", quiet=True)


def test_an_action_that_the_student_could_not_say_is_refused(configure, tmp_path):
    config = configure(
        env={"id": "KeyChain-v0", "kwargs": {"length": 1}},
        rollout={"max_tokens": 1500},
        credit={"preset": "opd", "guidance": {"kind": "prefix"}},
    )
    with pytest.raises(UserError, match=r"max_new_tokens=6 is less than the \d+ tokens of what the expert of"):
        train(config, tmp_path / "run", quiet=True)
