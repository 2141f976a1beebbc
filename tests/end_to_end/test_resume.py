"""However a run is cut off, it goes on as if nothing had been, or says what keeps it from that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from trpd_agents import interrupt, training
from trpd_agents.cli import app
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted
from trpd_agents.learner import Learner
from trpd_agents.rollout import Collector
from trpd_agents.run_directory import RunDirectory
from trpd_agents.training import train

EVERY = {"training": {"checkpoint_every": 2}, "evaluation": {"every": 2}}


@pytest.fixture(scope="module")
def finished(configure, tmp_path_factory) -> Path:
    """An undisturbed run, evaluated on the way."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(configure(**EVERY), path, quiet=True)
    return path


def result(path: Path) -> dict[str, Any]:
    """Everything a run leaves that no clock decides."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [
            {k: v for k, v in line.items() if not k.startswith(("seconds", "tokens_per_second"))} for line in lines
        ],
        "weights": (path / "student" / "model.safetensors").read_bytes(),
        "evaluations": json.loads((path / "evaluations.json").read_text()),
        "best": json.loads((path / "checkpoints" / "best.json").read_text())
        if (path / "checkpoints" / "best.json").exists()
        else None,
    }


def is_step(step: int, arguments: tuple[Any, ...]) -> bool:
    """Whether these are a collector's arguments for the episodes of that step, which are numbered through."""
    (first, *_) = arguments[1]
    return first.key == (step - 1) * 8


@pytest.mark.parametrize("name", ["state.pt", "student/model.safetensors"])
def test_after_a_damaged_checkpoint_it_goes_on_from_the_one_before(finished, configure, tmp_path, name, capfd):
    path = Path(shutil.copytree(finished, tmp_path / "moved"))
    file = path / "checkpoints" / "step-000004" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    train(configure(**EVERY), resume=path)
    assert result(path) == result(finished)
    said = capfd.readouterr().out.replace("\n", " ")
    assert f"{name} is damaged" in said and "the run goes on from step-000002" in said


@pytest.mark.parametrize("where", ["rollout", "evaluation"])
def test_an_abandoned_step_costs_no_step_but_itself(finished, configure, tmp_path, monkeypatch, where):
    """Ctrl-C twice in the middle of step 3, or once in the evaluation after step 2; the last checkpoint was step 0."""
    config = configure(evaluation=EVERY["evaluation"])
    path, calls = tmp_path / "run", iter(range(100))
    owner, name = (Collector, "collect") if where == "rollout" else (training, "evaluate_model")
    original = getattr(owner, name)

    def disturbed(*arguments: Any, **options: Any) -> Any:
        if is_step(3, arguments) if where == "rollout" else next(calls) == 0:
            signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, disturbed)
        with pytest.raises(Interrupted, match="abandoned what it was doing after step 2 of 4; go on with"):
            train(config, path, quiet=True)
    assert [p.name for p in RunDirectory(path).checkpoints.all()] == ["step-000000", "step-000002"]
    train(config, resume=path, quiet=True)
    assert result(path) == result(finished)


def test_weights_in_the_middle_of_an_update_are_never_saved(finished, configure, tmp_path, monkeypatch):
    config = configure(evaluation=EVERY["evaluation"], learner={"minibatches": 2})
    step, steps = Learner._step, iter(range(100))

    def disturbed(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(steps) == 5:
            signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_step", disturbed)
        with pytest.raises(Interrupted, match="after step 2 of 4"):
            train(config, tmp_path / "run", quiet=True)
    steps_saved = [p.name for p in RunDirectory(tmp_path / "run").checkpoints.all()]
    train(config, resume=tmp_path / "run", quiet=True)
    train(config, tmp_path / "undisturbed", quiet=True)
    assert result(tmp_path / "run") == result(tmp_path / "undisturbed")
    assert "step-000003" not in steps_saved


def test_sigterm_does_not_wait_for_a_step_that_takes_long(finished, configure, tmp_path, monkeypatch):
    config = configure(evaluation=EVERY["evaluation"])
    collect, slept = Collector.collect, []

    def stuck(self: Any, *arguments: Any, **options: Any) -> Any:
        if is_step(3, (self, *arguments)):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            slept.append(60)
        return collect(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", stuck)
        patch.setattr(training, "stop_on_signal", lambda say: interrupt.stop_on_signal(say, patience=0.2))
        with pytest.raises(Interrupted, match="abandoned what it was doing after step 2 of 4"):
            train(config, tmp_path / "run", quiet=True)
    assert not slept
    train(config, resume=tmp_path / "run", quiet=True)
    assert result(tmp_path / "run") == result(finished)


def test_episodes_played_ahead_are_part_of_a_checkpoint(configure, tmp_path, monkeypatch):
    """Their weights are gone when the run goes on, so they cannot be played again."""
    config = configure(training={"staleness": 1, "checkpoint_every": 2})
    train(config, tmp_path / "undisturbed", quiet=True)
    update, updates = Learner.update, iter(range(100))

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(updates) == 3:
            raise MemoryError("killed")
        return update(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", killed)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "ahead.parquet").is_file()
    train(config, resume=tmp_path / "run", quiet=True)
    assert result(tmp_path / "run") == result(tmp_path / "undisturbed")


# Settings


def resume(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["train", "--resume", *map(str, arguments)])
    assert "Traceback" not in found.output
    return found.exit_code, found.output


def test_settings_edited_since_are_refused_and_named(finished, tmp_path):
    path = Path(shutil.copytree(finished, tmp_path / "moved"))
    file = path / "config.yaml"
    data = yaml.safe_load(file.read_text())
    data["learner"]["lr"] = 0.5
    data["training"]["steps"] = 5
    file.write_text(yaml.safe_dump(data))
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file())
    code, output = resume(path)
    assert code == 2 and "learner.lr: saved with 0.01, now 0.5" in output and "training.steps" not in output
    assert before == sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file())
    code, output = resume(path, "learner.lr=0.25")
    assert code == 0 and "going on with other settings: learner.lr, training.steps" in output.replace("\n", " ")
    assert yaml.safe_load(file.read_text())["learner"]["lr"] == 0.25
    code, output = resume(path, "training.steps=6")  # what was meant once need not be said again
    assert code == 0 and len((path / "metrics.jsonl").read_text().splitlines()) == 6


def test_two_runs_in_one_directory_are_refused(finished, configure, tmp_path):
    path = Path(shutil.copytree(finished, tmp_path / "moved"))
    with (
        RunDirectory.open(path).locked(),
        pytest.raises(UserError, match=rf"{path} is in use by process {os.getpid()} on .*; wait for it or stop it"),
    ):
        train(configure(**EVERY), resume=path, quiet=True)


# Disks


def test_a_full_disk_stops_the_run_and_loses_nothing(finished, configure, disk, monkeypatch):
    config, path = configure(**EVERY), disk / "run"
    filler = disk / "filler"
    record = training.record

    def recorded(*arguments: Any) -> None:
        if arguments[4] == 4:  # room for the step's line and its episodes, not for a checkpoint
            free = shutil.disk_usage(disk).free
            filler.write_bytes(bytes(free - 200_000))
        record(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "record", recorded)
        with pytest.raises(RunError, match=r"the checkpoint of step 4 could not be written to .*make room"):
            train(config, path, quiet=True)
    assert RunDirectory.open(path).checkpoints.newest().step == 2
    assert not list(path.rglob("*.half"))
    filler.unlink()
    train(config, resume=path, quiet=True)
    assert result(path) == result(finished)


def test_metrics_that_cannot_be_written_stop_the_run(configure, tmp_path, monkeypatch):
    record = training.record

    def recorded(*arguments: Any) -> None:
        if arguments[4] == 2:
            (tmp_path / "run" / "metrics.jsonl").rename(tmp_path / "kept")
            (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
        record(*arguments)

    monkeypatch.setattr(training, "record", recorded)
    with pytest.raises(RunError, match=r"the metrics of step 2 could not be written .*No space left on device"):
        train(configure(), tmp_path / "run", quiet=True)


def test_a_clock_that_jumps_changes_nothing(finished, configure, tmp_path, monkeypatch):
    now = time.time
    jumps = iter([0, 1e6, -1e6] * 10_000)
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    train(configure(**EVERY), tmp_path / "run", quiet=True)
    assert result(tmp_path / "run") == result(finished)
