"""How long a run is, how its episodes are played, and what one step leaves to the next, through an interruption too."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trpd_agents import training
from trpd_agents.checkpoints import Checkpoints
from trpd_agents.cli import app
from trpd_agents.config import RunConfig, dump_config
from trpd_agents.interrupt import Interrupted
from trpd_agents.storage import read_trajectories
from trpd_agents.training import train
from trpd_agents.trajectory import Trajectory

SCRIPTED = Path(__file__).parents[1] / "rollout" / "scripted_env.py"
BUDGET, WINDOW, AGREEMENT = 120, 7, 0.85
EVERYTHING = {
    "preset": "opd",
    "guidance": {"kind": "rescue", "enter": 0.8, "budget": 1},
    "curriculum": {"kind": "probe", "threshold": AGREEMENT, "start": 1},
    "rule": {"kind": "stop", "thresholds": "quantile", "enter": 0.4, "window": WINDOW},
}


@pytest.fixture(scope="module")
def scripted(configure):
    """`scripted(credit, **training)`: episodes of four turns; as long as `training` says."""

    def build(credit: dict[str, Any], evaluation: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        return configure(
            env={"id": f"{SCRIPTED}:Scripted", "kwargs": {"length": 4, "spread": 1}, "max_turns": 5},
            rollout={"max_new_tokens": 16, "max_tokens": 400},
            learner={"lr": 1e-3},
            credit=credit,
            evaluation={"episodes": 2, "before": False, "teacher": False, **(evaluation or {})},
            training={"save_trajectories_every": 1, **changes},
        )

    return build


@pytest.fixture(scope="module")
def whole(scripted) -> RunConfig:
    return scripted(
        EVERYTHING, {"every_environment_steps": 50}, steps=None, environment_steps=BUDGET, episodes_per_step=6
    )


@pytest.fixture(scope="module")
def finished(whole, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    return path, train(whole, path, quiet=True)


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def timeless(path: Path) -> list[dict[str, Any]]:
    times = ("seconds", "tokens_per_second")
    return [{name: v for name, v in line.items() if not name.startswith(times)} for line in metrics(path)]


def stored(path: Path) -> list[list[Trajectory]]:
    return [read_trajectories(file) for file in sorted((path / "trajectories").iterdir())]


def test_the_run_ends_with_the_step_that_reaches_its_budget(finished):
    lines = metrics(finished[0])
    played = [line["environment_steps"] for line in lines]
    assert played[-2] < BUDGET <= played[-1]
    turns = [sum(len(t.turns) for t in step) for step in stored(finished[0])]
    assert [sum(turns[: k + 1]) for k in range(len(turns))] == played


def test_the_learning_rate_follows_the_share_of_the_budget(finished):
    lines = metrics(finished[0])
    before = [0, *(line["environment_steps"] for line in lines[:-1])]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * (1 - n / BUDGET) for n in before])


def test_evaluations_come_when_so_many_turns_were_played(finished):
    path, summary = finished
    evaluations = json.loads((path / "evaluations.json").read_text())
    played = {line["step"]: line["environment_steps"] for line in metrics(path)}
    due = [step for step, n in played.items() if n // 50 > played.get(step - 1, 0) // 50 and n < BUDGET]
    assert due and list(evaluations) == [*(f"step-{step:06d}" for step in due), "after"]
    for found in evaluations.values():
        assert found["environment_steps"] == played[found["step"]]


def test_what_was_not_evaluated_is_not_summed_up(finished):
    _, summary = finished
    assert summary.keys() == {"after", "seconds", "tokens", "run_dir"}


def test_a_probe_deepens_the_episodes(finished):
    path, _ = finished
    caps = [line["turn_cap"] for line in metrics(path)]
    assert caps[0] == 1 and caps[-1] > 1 and caps == sorted(caps)
    for cap, line, episodes in zip(caps, metrics(path), stored(path), strict=True):
        assert {len(t.turns) for t in episodes} == {min(cap, 4)}
        assert {str(t.outcome) for t in episodes} == {"max_turns" if cap < 4 else "terminated"}
        deepest = line["divergence_by_turn"][cap - 1]
        following = caps[line["step"]] if line["step"] < len(caps) else None
        assert following in (None, cap + (deepest is not None and deepest <= AGREEMENT and cap < 5))


def test_rescued_turns_are_the_teachers(finished):
    authors = [[turn.author for turn in t.turns] for step in stored(finished[0]) for t in step]
    assert any("teacher" in row for row in authors)
    assert all(row[0] == "student" and row.count("teacher") <= 1 for row in authors)
    assert any(line["imitation_nll"] > 0 for line in metrics(finished[0]))


def test_quantiles_are_of_the_latest_turns(finished):
    path, _ = finished
    loop = Checkpoints(path / "checkpoints").newest().state()["loop"]
    lines = metrics(path)
    counted = sum(sum(line["counted_by_turn"]) for line in lines)
    assert len(loop["recent"]) == min(WINDOW, counted) == WINDOW
    assert (loop["recent"] >= 0).all() and loop["environment_steps"] == lines[-1]["environment_steps"]
    assert lines[0]["outside_share"] == 0  # nothing was seen before
    assert any(line["outside_share"] > 0 for line in lines[1:])


@pytest.mark.parametrize("stop", [2, 4])
def test_an_interruption_changes_nothing(finished, whole, tmp_path, monkeypatch, stop):
    path, undisturbed = tmp_path / "interrupted", finished[0]
    record = training.record

    def recorded(*arguments: Any) -> None:
        record(*arguments)
        if arguments[4] == stop:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training, "record", recorded)
        with pytest.raises(Interrupted, match=rf"after step {stop}, with \d+ of {BUDGET} environment steps; go on"):
            train(whole, path, quiet=True)
    train(whole, resume=path, quiet=True)
    assert timeless(path) == timeless(undisturbed)
    for name in ("student/model.safetensors", "evaluations.json"):
        assert (path / name).read_bytes() == (undisturbed / name).read_bytes()


def test_depth_and_bernoulli_guidance_follow_the_steps(scripted, tmp_path):
    credit = {"preset": "opd", "curriculum": {"kind": "depth", "every": 2}, "guidance": {"kind": "bernoulli"}}
    train(scripted(credit, steps=5, episodes_per_step=8), tmp_path / "run", quiet=True)
    lines = metrics(tmp_path / "run")
    assert [line["turn_cap"] for line in lines] == [1, 1, 2, 2, 3]
    assert lines[0]["action_tokens"] == 0 < lines[0]["guided_tokens"]
    assert lines[-1]["guided_tokens"] == 0 < lines[-1]["action_tokens"]  # 0.8 of the run is over
    mixed = {turn.author for t in stored(tmp_path / "run")[2] for turn in t.turns}
    assert mixed == {"student", "teacher"}


def test_the_command_shows_what_was_evaluated(scripted, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(scripted({"preset": "opd"}, {"teacher": True}, steps=1, episodes_per_step=2)))
    result = CliRunner().invoke(app, ["train", str(recipe), "--run-dir", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "student after" in result.output and "teacher" in result.output
    assert "student before" not in result.output and "paired" not in result.output
