"""Faults injected into whole runs: each goes on, or stops with one sentence, and what was written before is not lost.

docs/faults.md lists them with what the user sees; its rows name the tests.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import dump_config
from trpd_agents.errors import RunError, UserError
from trpd_agents.rollout import Collector
from trpd_agents.run_directory import RunDirectory
from trpd_agents.storage import read_trajectories
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.training import episodes_of, train

ENVS = Path(__file__).parents[1] / "textenv" / "pool_envs.py"
TRAINING = {
    "steps": 3,
    "episodes_per_step": 4,
    "group_size": 2,
    "save_trajectories_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
    "doctor": False,
}


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def checkpoints(path: Path) -> list[Path]:
    return RunDirectory.open(path).checkpoints.all()


def learned(path: Path) -> tuple[Any, bytes]:
    """What a run comes to, but for seconds."""
    lines = [{k: v for k, v in line.items() if "second" not in k} for line in metrics(path)]
    return lines, (path / "student" / "model.safetensors").read_bytes()


@pytest.fixture
def short(configure) -> Callable[..., Any]:
    """`short(**sections)`: three steps of four episodes."""

    def build(**changes: Any) -> Any:
        base = configure(training=TRAINING, evaluation={"episodes": 2, "teacher": False}).model_dump()
        for name, change in changes.items():
            base[name] = {**base[name], **change}
        return type(configure()).model_validate({**base, "report": False, "credit": {"preset": "opd"}})

    return build


def odd(seconds: float = 20.0, **kwargs: Any) -> dict[str, Any]:
    """The environment of `pool_envs.py` that misbehaves as it is told to, in one worker with narrow limits."""
    limits = {"max_turns": 3, "workers": 1, "step_seconds": seconds, "memory_mb": 256}
    return {"env": {"id": f"{ENVS}:Odd", "kwargs": kwargs, **limits}}


# Environments


@pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")
@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("exit", "worker_died", "its process ended with code 3 in step"),
        ("sleep", "timeout", "step took more than 0.5 s"),
        ("hog", "step_raised", "its worker process may use 256 MB (env.memory_mb)"),
    ],
)
def test_an_environment_that_misbehaves_costs_its_episodes(short, tmp_path, what, kind, message):
    bad = episodes_of(short(), 1)[0].seed
    seconds = 0.5 if what == "sleep" else 20.0
    train(short(**odd(seconds, what=what, bad=[bad])), tmp_path / "run", quiet=True)
    assert [line["environment_failures"] for line in metrics(tmp_path / "run")] == [0, 2, 0]
    assert [line["episodes"] for line in metrics(tmp_path / "run")] == [4, 2, 4]
    stored = read_trajectories(tmp_path / "run" / "trajectories" / "step-000002.parquet")
    errors = [t.error for t in stored if t.seed == bad]
    assert len(errors) == 2 and all(e is not None and e["kind"] == kind and message in e["message"] for e in errors)
    assert all(t.error is None for t in stored if t.seed != bad)


@pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")
def test_a_worker_that_is_killed_changes_nothing(short, tmp_path, monkeypatch):
    folder = tmp_path / "pids"
    folder.mkdir()
    config = short(**odd(folder=str(folder)))
    train(config, tmp_path / "undisturbed", quiet=True)
    collect, calls, killed = Collector.collect, iter(range(100)), []

    def disturbed(self: Any, *arguments: Any, **options: Any) -> Any:
        found = collect(self, *arguments, **options)
        if next(calls) == 1:
            for file in folder.glob("pid-*"):
                pid = int(file.name.removeprefix("pid-"))
                if pid != os.getpid() and Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
        return found

    monkeypatch.setattr(Collector, "collect", disturbed)
    train(config, tmp_path / "run", quiet=True)
    assert killed and learned(tmp_path / "run") == learned(tmp_path / "undisturbed")


# Teachers


def test_a_teacher_that_raises_stops_the_run_which_can_go_on(short, tmp_path, monkeypatch):
    train(short(), tmp_path / "undisturbed", quiet=True)
    score, calls = LocalTeacher.score, iter(range(100))

    def failing(self: Any, trajectories: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return score(self, trajectories)

    with monkeypatch.context() as patch:
        patch.setattr(LocalTeacher, "score", failing)
        with pytest.raises(RunError, match=r"^the teacher failed in step 2: RuntimeError: CUDA error.*trpd train --re"):
            train(short(), tmp_path / "run", quiet=True)
    assert len(metrics(tmp_path / "run")) == 1
    train(short(), resume=tmp_path / "run", quiet=True)
    assert learned(tmp_path / "run") == learned(tmp_path / "undisturbed")


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_scores_that_are_no_numbers_are_left_out_and_counted(short, tmp_path, monkeypatch, value):
    score = LocalTeacher.score

    def broken(self: Any, trajectories: Any) -> Any:
        found = score(self, trajectories)
        for scores in found:
            scores.lt[0] = value
        return found

    monkeypatch.setattr(LocalTeacher, "score", broken)
    train(short(), tmp_path / "run", quiet=True)
    for line in metrics(tmp_path / "run"):
        assert line["teacher_logprob_invalid"] == 4 and sum(line["log_ratio_histogram"]) == line["action_tokens"] - 4
        assert all(np.isfinite(v) for v in line.values() if isinstance(v, int | float))


def test_a_teacher_whose_scores_are_all_broken_teaches_nothing(short, tmp_path, monkeypatch):
    score = LocalTeacher.score

    def broken(self: Any, trajectories: Any) -> Any:
        found = score(self, trajectories)
        for scores in found:
            scores.lt[:] = math.nan
        return found

    monkeypatch.setattr(LocalTeacher, "score", broken)
    train(short(), tmp_path / "run", quiet=True)
    for line in metrics(tmp_path / "run"):
        assert line["teacher_logprob_invalid"] == line["action_tokens"] and line["kept_share"] == 0
    first, *_, last = (load_file(p / "student" / "model.safetensors") for p in checkpoints(tmp_path / "run"))
    assert all(torch.equal(first[name], last[name]) for name in first)


# Directories


def fill(disk: Path, leave: int = 0) -> None:
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - leave))


def read_only(disk: Path, on: bool = True) -> None:
    subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", disk], check=True)


@pytest.mark.parametrize("fault", [fill, read_only])
def test_a_directory_that_cannot_be_written_is_refused_at_the_start(short, disk, fault):
    fault(disk)
    with pytest.raises(UserError, match=r"run directory .* cannot be written: (No space left|Read-only)"):
        train(short(), disk / "run", quiet=True)
    assert not (disk / "run").exists()


def test_a_disk_without_room_for_the_models_stops_the_run(short, disk):
    fill(disk, leave=100_000)
    with pytest.raises(RunError, match=r"^teacher could not be written to .*make room.*trpd train --resume"):
        train(short(), disk / "run", quiet=True)
    (disk / "filler").unlink()
    train(short(), resume=disk / "run", quiet=True)
    assert len(metrics(disk / "run")) == 3


@pytest.mark.parametrize("fault", [fill, read_only])
def test_a_directory_that_cannot_be_written_is_refused_at_a_resume(short, disk, fault):
    train(short(), disk / "run", quiet=True)
    before = learned(disk / "run")
    fault(disk)
    found = CliRunner().invoke(app, ["train", "--resume", str(disk / "run"), "training.steps=4"])
    assert found.exit_code == 2 and "cannot be written" in found.output and "Traceback" not in found.output
    assert learned(disk / "run") == before
    read_only(disk, False)
    (disk / "filler").unlink(missing_ok=True)
    train(short(training={"steps": 4}), resume=disk / "run", quiet=True)
    assert len(metrics(disk / "run")) == 4


# Processes


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", *map(str, arguments)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'envs'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen[str], path: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (path / "metrics.jsonl").exists() and len((path / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_two_processes_and_signals(short, tmp_path):
    """A second run in the directory is refused; SIGTERM saves; resumed, SIGINT twice abandons the step and saves."""
    recipe, path = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(dump_config(short(training={"steps": 5000, "checkpoint_every": 5000})))
    processes = [start("train", recipe, "--run-dir", path, cwd=tmp_path)]
    try:
        wait_for_step(processes[0], path, 1)
        processes.append(start("train", "--resume", path, cwd=tmp_path))
        _, err = processes[1].communicate(timeout=120)
        assert processes[1].returncode == 2 and "Traceback" not in err
        assert f"run directory {path} is in use by process {processes[0].pid} on" in err

        processes[0].send_signal(signal.SIGTERM)
        out, err = processes[0].communicate(timeout=60)
        assert processes[0].returncode == 130 and "Traceback" not in err and "stopping after this step" in out
        done = len(metrics(path))
        assert f"stopped after step {done} of 5000; go on with: trpd train --resume {path}" in err
        newest = RunDirectory.open(path).checkpoints.newest()
        assert newest is not None and newest.step == done

        processes.append(start("train", "--resume", path, cwd=tmp_path))
        wait_for_step(processes[2], path, done + 1)
        processes[2].send_signal(signal.SIGINT)
        processes[2].send_signal(signal.SIGINT)
        out, err = processes[2].communicate(timeout=60)
        assert processes[2].returncode == 130 and "Traceback" not in err
        assert "go on with: trpd train --resume" in err
    finally:
        for process in processes:
            process.kill()
    newest = RunDirectory.open(path).checkpoints.newest()
    assert newest is not None and done <= newest.step <= len(metrics(path))
    assert [line["step"] for line in metrics(path)] == list(range(1, len(metrics(path)) + 1))


def test_every_listed_fault_has_its_test():
    root = Path(__file__).parents[1]
    listed = re.findall(r"`(test_\w+\.py)::(test_\w+)` \|$", (root.parent / "docs" / "faults.md").read_text(), re.M)
    assert len(listed) > 30
    for file, name in listed:
        (path,) = root.rglob(file)
        assert re.search(rf"^def {name}\(", path.read_text(), re.M), (file, name)
