"""Worker processes: one dies, all are asked to stop, and the study goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trpd_agents.config.yaml_file import write_yaml


@pytest.fixture
def study_file(study_data, tmp_path) -> Path:
    """Two members, each long enough to be disturbed, with a checkpoint after every second update."""
    training = {"environment_steps": 100, "checkpoint_every": 2}
    data = study_data(methods=["opd"], base={"training": training, "evaluation": {"every_environment_steps": 0}})
    (tmp_path / "study.yaml").write_text(write_yaml(data))
    return tmp_path / "study.yaml"


def start(file: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", "study", str(file)]
    return subprocess.Popen(
        [*command, "--out", str(file.parent / "out"), "--jobs", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def steps(folder: Path) -> list[int]:
    file = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.is_file() else []


def test_a_worker_that_dies_costs_its_member_alone_which_goes_on_later(study_file):
    out = study_file.parent / "out"
    first, second = (out / "members" / "guess" / "other" / "opd" / str(seed) for seed in (0, 1))
    process = start(study_file)
    try:
        until(lambda: (first / "checkpoints" / "step-000004").is_dir(), process)
        (worker,) = workers(process)
        os.kill(worker, signal.SIGKILL)
        told, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert "guess/other/opd/0  FAILED: its process was killed (SIGKILL)" in told
    assert "[2/2] guess/other/opd/1  success" in told and "**1 of 2 seeds**" in told
    assert "error: 1 failed; `trpd study" in errors and "Traceback" not in errors
    assert (second / "member.json").is_file() and not (first / "member.json").exists()

    again = start(study_file)
    told, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "1 of 2 members were finished before" in told and "2 of 2 seeds" in told
    assert "going on after update " in (out / "logs/members/guess/other/opd/0.log").read_text()
    assert steps(first) == list(range(1, len(steps(first)) + 1))


def test_ctrl_c_lets_members_save_and_says_how_to_go_on(study_file):
    out = study_file.parent / "out"
    first = out / "members" / "guess" / "other" / "opd" / "0"
    process = start(study_file)
    try:
        until(lambda: len(steps(first)) >= 1, process)
        pids = workers(process)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "stopping: 1 running members save and end" in told
    assert f"the same command goes on from here: trpd study {study_file} --out {out}" in errors
    assert "Traceback" not in errors
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert (first / "checkpoints" / f"step-{steps(first)[-1]:06d}").is_dir()  # the step it was in, not an older one
