"""Runs with a hinted teacher, with routed ones, with a cache: refused early, resumed exactly, free the second time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trpd_agents.preparation as preparation
from trpd_agents import training
from trpd_agents.config import RunConfig, parse_config
from trpd_agents.errors import UserError
from trpd_agents.interrupt import Interrupted
from trpd_agents.models import load_model
from trpd_agents.storage import read_trajectories
from trpd_agents.training import train

HINTED = f"{Path(__file__).parents[1] / 'teacher' / 'hinting_env.py'}:Number"
ENV = {"id": HINTED, "kwargs": {"high": 3, "max_turns": 2}}


@pytest.fixture
def recipe(configure) -> Callable[..., RunConfig]:
    """`recipe(teacher={...}, **sections)`: the suite's small run with another teacher."""

    def build(teacher: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        data = configure(**changes).model_dump()
        return parse_config(data if teacher is None else {**data, "teacher": teacher})

    return build


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steady(run: Path) -> list[dict[str, Any]]:
    """Metrics without the clock."""
    return [{k: v for k, v in line.items() if "second" not in k and "cache" not in k} for line in lines(run)]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when `step` updates were recorded."""
    record = training.record

    def interrupted(*arguments: Any) -> None:
        record(*arguments)
        if arguments[4] == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training, "record", interrupted)


@pytest.mark.parametrize("follow", ["start", "student"])
def test_a_hinted_run_can_be_resumed(recipe, tmp_path, monkeypatch, follow) -> None:
    config = recipe(env=ENV, teacher={"kind": "hinted", "follow": follow}, training={"steps": 3})
    train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", quiet=True)
    train(config, resume=tmp_path / "cut", quiet=True)
    assert steady(tmp_path / "cut") == steady(tmp_path / "whole")
    assert (tmp_path / "cut" / "teacher").exists() == (follow == "start")
    (stored, *_) = sorted((tmp_path / "cut" / "trajectories").iterdir())
    assert all(t.hint is not None and t.hint.startswith("The secret number is") for t in read_trajectories(stored))
    assert any(line["kl"] != 0 for line in lines(tmp_path / "whole"))


def test_a_frozen_hinted_teacher_stays_what_the_student_was(recipe, tmp_path, model_directory) -> None:
    config = recipe(env=ENV, teacher={"kind": "hinted"}, training={"steps": 2})
    train(config, tmp_path / "run", quiet=True)
    start, teacher, student = (
        load_model(str(place)).model.state_dict()
        for place in (model_directory(0), tmp_path / "run" / "teacher", tmp_path / "run" / "student")
    )
    assert all((teacher[name] == start[name]).all() for name in start)
    assert any((student[name] != start[name]).any() for name in start)


@pytest.mark.parametrize("guidance", ["prefix", "bernoulli", "rescue"])
def test_a_hinted_teacher_guides(recipe, tmp_path, guidance) -> None:
    config = recipe(
        env=ENV,
        teacher={"kind": "hinted"},
        credit={"preset": "opd", "guidance": {"kind": guidance, **({"enter": 0.0} if guidance == "rescue" else {})}},
        training={"steps": 1, "episodes_per_step": 16},
        evaluation={"episodes": 2},
    )
    train(config, tmp_path / "run", quiet=True)
    assert lines(tmp_path / "run")[0]["guided_tokens"] > 0


def test_without_hints_nothing_is_loaded(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "load_model", None)
    monkeypatch.setattr("trpd_agents.starts.prepare_model", None)
    silent = {**ENV, "kwargs": {**ENV["kwargs"], "hints": False}}
    with pytest.raises(UserError, match=r'gives no info\["hint"\] at the reset'):
        train(recipe(env=silent, teacher={"kind": "hinted"}), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=r"and a hint of \d+ tokens are more than the student's context of 2048 tokens"):
        train(
            recipe(env=ENV, teacher={"kind": "hinted"}, rollout={"max_tokens": 2045}, learner={"token_budget": 4096}),
            tmp_path / "run",
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


def test_a_routed_run_is_the_run_of_the_teacher_it_leads_to(recipe, tmp_path, monkeypatch, model_directory) -> None:
    teachers = {"good": {"model": str(model_directory(1))}, "absent": {"model": str(tmp_path / "nowhere")}}
    routes = {"*hinting_env.py*": "good", "*": "absent"}
    train(recipe(env=ENV), tmp_path / "alone", quiet=True)
    config = recipe(env=ENV, teacher={"kind": "routed", "teachers": teachers, "routes": routes})
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "routed", quiet=True)
    train(config, resume=tmp_path / "routed", quiet=True)
    assert steady(tmp_path / "routed") == steady(tmp_path / "alone")
    assert (tmp_path / "routed" / "teacher" / "good" / "config.json").is_file()


def test_an_environment_that_no_route_leads_from_is_refused(recipe, tmp_path, model_directory) -> None:
    teacher = {"kind": "routed", "teachers": {"a": {"model": str(model_directory(1))}}, "routes": {"Key*": "a"}}
    with pytest.raises(UserError, match="no pattern fits the environment 'GuessNumber-v0'; there are: Key"):
        train(recipe(teacher=teacher), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("kind", ["local", "oracle", "hinted"])
def test_the_second_run_finds_every_score(recipe, tmp_path, model_directory, kind) -> None:
    own = {"local": {"model": str(model_directory(1))}, "oracle": {}, "hinted": {}}[kind]
    settings = {"env": ENV, "training": {"steps": 2}, "evaluation": {"episodes": 2}}
    train(recipe(teacher={"kind": kind, **own}, **settings), tmp_path / "plain", quiet=True)
    cached = recipe(teacher={"kind": kind, **own, "cache": str(tmp_path / "cache")}, **settings)
    for name in ("first", "second"):
        train(cached, tmp_path / name, quiet=True)
        assert steady(tmp_path / name) == steady(tmp_path / "plain")
    found = [(line["teacher_cache_hits"], line["teacher_cache_misses"]) for line in lines(tmp_path / "second")]
    assert found == [(8, 0), (8, 0)]
    assert all(line["teacher_cache_misses"] > 0 for line in lines(tmp_path / "first"))
    assert "teacher_cache_hits" not in lines(tmp_path / "plain")[0]


def test_two_environments_and_a_teacher_for_each(recipe, tmp_path, model_directory, monkeypatch) -> None:
    env = {
        "id": "mixture",
        "kwargs": {"environments": [{"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}}, ENV]},
    }
    teacher = {
        "kind": "routed",
        "teachers": {"other": {"model": str(model_directory(1))}, "itself": {"kind": "hinted"}},
        "routes": {"GuessNumber-v0": "other", "*hinting_env*": "itself"},
    }
    config = recipe(teacher, env=env, training={"steps": 2, "save_trajectories_every": 1})
    summary = train(config, tmp_path / "whole", quiet=True)
    assert summary["teacher"]["episodes"] == 8
    stored = [t for file in (tmp_path / "whole" / "trajectories").iterdir() for t in read_trajectories(file)]
    assert {t.env_id for t in stored} == {"GuessNumber-v0", HINTED}
    begins = {"GuessNumber-v0": "The secret is", HINTED: "The secret number is"}
    assert all((t.hint or "").startswith(begins[t.env_id]) and t.scores is not None for t in stored)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", quiet=True)
    train(config, resume=tmp_path / "cut", quiet=True)
    assert steady(tmp_path / "cut") == steady(tmp_path / "whole")
