"""Two real processes: what they agree on, and what happens when one of them is gone."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trpd_agents.distributed import World, launch
from trpd_agents.errors import RunError

HERE = Path(__file__).parent


@pytest.fixture
def functions(monkeypatch):
    """tests/rank_functions.py, importable here and in child processes."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("rank_functions")


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.parametrize("minibatches", [1, 2])
def test_two_ranks_compute_what_one_would(functions, model_directory, minibatches):
    payload = {"student": str(model_directory(0)), "teacher": str(model_directory(1)), "minibatches": minibatches}
    found = launch(2, "rank_functions:all_checks", payload, lambda world: functions.all_checks(world, payload))["ranks"]
    first, second = (rank["collectives"] for rank in found)
    assert first["mine"] == ["a", "c", "e"] and second["mine"] == ["b", "d"]
    for rank in (first, second):
        assert rank["whole"] == list("ABCDE")
        assert rank["one"] == ["only"] and rank["none"] == []
        assert rank["sum"] == [3.0, 2.0**41 + 1]  # exact: float64
        assert rank["gather"] == [{"rank": 0}, {"rank": 1}]
        assert rank["gradients"] == [[[3.0, 3.0], [3.0, 3.0]], [0.0, 0.0, 0.0], [5.0]]

    alone = functions.learner_step(World(), payload)
    for rank in found:
        assert rank["step"]["figures"] == pytest.approx(alone["figures"], rel=1e-5)
        assert rank["step"]["gradient"] == pytest.approx(alone["gradient"], abs=1e-6)
    assert found[0]["step"]["gradient"] == found[1]["step"]["gradient"]  # to the bit: the students stay the same


def test_one_rank_is_this_process(functions):
    found = launch(1, "nowhere:nothing", {}, functions.collectives)
    assert found["mine"] == list("abcde")
    assert found["whole"] == list("ABCDE")
    assert found["sum"] == [1.0, float(2**40)]


def test_a_rank_that_dies_is_named_with_its_last_words(functions):
    with pytest.raises(RunError, match=r"rank 1 of 2 died with exit code 1:\n[\s\S]*the disk of rank one is full"):
        launch(2, "rank_functions:die", {}, lambda world: functions.die(world, {}))


def test_a_rank_that_cannot_start_is_not_waited_for(functions, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RunError, match=r"rank 1 of 2 died with exit code 3:\nno torch here"):
        launch(2, "rank_functions:sums", {}, lambda world: world.sum(1.0))


def test_an_error_of_rank_0_is_raised_as_it_is_and_ends_the_others(functions, tmp_path):
    file = tmp_path / "pid"

    def main(world: World) -> None:
        wait_for(file.exists)
        raise ValueError("rank 0 has had enough")

    with pytest.raises(ValueError, match="had enough"):
        launch(2, "rank_functions:linger", {"file": str(file)}, main)
    assert not alive(int(file.read_text()))


def test_ranks_do_not_outlive_the_process_that_started_them(functions, tmp_path):
    file = tmp_path / "pid"
    script = (
        "from trpd_agents.distributed import launch\n"
        "from rank_functions import linger\n"
        f"payload = {{'file': {str(file)!r}}}\n"
        "launch(2, 'rank_functions:linger', payload, lambda world: linger(world, payload))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: file.exists() and file.read_text())
        child = int(file.read_text())
        assert alive(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not alive(child))


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
