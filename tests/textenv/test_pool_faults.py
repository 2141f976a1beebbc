"""An environment that hangs, dies or lies in a worker is one failed episode, and nobody else's trouble."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trpd_agents.errors import EnvironmentFailure, RunError
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.episode_env import NOT_RESTORED, Opening
from trpd_agents.textenv.pool import InProcess
from trpd_agents.textenv.workers import Workers
from trpd_envs import format_call

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")

FILE = Path(__file__).parent / "pool_envs.py"
ODD = f"{FILE}:Odd"
SECONDS = 0.4  # a step's limit in these tests
BAD = 2  # the seed of the episode that misbehaves


@pytest.fixture(scope="module")
def healthy(play) -> dict:
    return play(InProcess(), EnvSpec(ODD))


def mischief(what: str, **more) -> EnvSpec:
    return EnvSpec(ODD, {"what": what, "bad": [BAD], **more})


@pytest.mark.parametrize(
    ("what", "where", "kind", "message"),
    [
        ("sleep", "step", "timeout", r"step took more than 0.4 s: TimeExpired \(.*pool_envs.py:\d+, in <lambda>\)"),
        (
            "hang_blocked",
            "reset",
            "timeout",
            r"reset\(seed=2\) took .* could not be interrupted \(.*pool_envs.py:\d+, in hang_blocked\)",
        ),
        (
            "crunch",
            "step",
            "timeout",
            r"step took more than 0.4 s and could not be interrupted \(.*pool_envs.py:\d+, in crunch\)",
        ),
        ("exit", "step", "worker_died", "its process ended with code 3 in step"),
        ("segfault", "step", "worker_died", r"its process died of SIGSEGV in step \(.*pool_envs.py:\d+, in <lambda>\)"),
        ("hog", "step", "step_raised", r"MemoryError .*its worker process may use 256 MB \(env.memory_mb\)"),
        ("interrupt", "step", "step_raised", "KeyboardInterrupt"),
    ],
)
def test_only_the_episode_that_did_it_has_failed(play, healthy, what, where, kind, message) -> None:
    """One worker, so that all episodes live where it happens; those that did nothing end as if nothing had."""
    started = time.monotonic()
    with Workers(1, SECONDS, memory_mb=256) as pool:
        said = play(pool, mischief(what, where=where))
        (*before, failure) = said.pop(BAD)
        assert isinstance(failure, EnvironmentFailure) and failure.kind == kind
        with pytest.raises(EnvironmentFailure, match=message):
            raise failure
        assert before == healthy[BAD][: 2 if where == "step" else 0]
        assert said == {seed: texts for seed, texts in healthy.items() if seed != BAD}
        assert play(pool, EnvSpec(ODD)) == healthy  # and the pool can still be used
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("what", "kind"), [("raise", "step_raised"), ("sys_exit", "step_raised")])
def test_what_python_can_handle_costs_no_worker(play, healthy, pids, tmp_path, what, kind) -> None:
    with Workers(1, SECONDS) as pool:
        said = play(pool, mischief(what, folder=str(tmp_path)))
    assert said.pop(BAD)[-1].kind == kind and len(pids()) == 1
    assert said == {seed: texts for seed, texts in healthy.items() if seed != BAD}


@pytest.mark.parametrize("pool", [lambda: InProcess(SECONDS), lambda: Workers(1, SECONDS)])
def test_a_solver_that_fails_is_the_failure_of_the_next_step(pool: Callable) -> None:
    with pool() as player:
        env = player.open(mischief("raise", where="expert"), BAD)
        player.wait()
        assert env.expert() is None and env.optimal_actions() == []
        player.step(env, "go")
        ((_, failure),) = player.wait()
        assert isinstance(failure, EnvironmentFailure) and failure.kind == "step_raised"
        env.close()


def test_a_solver_that_takes_its_worker_down(play) -> None:
    with Workers(1, SECONDS) as pool:
        bad, good = pool.open(mischief("segfault", where="expert"), BAD), pool.open(EnvSpec(ODD), 1)
        assert len(pool.wait()) == 2
        assert bad.expert() is None
        assert bad.failure is not None and bad.failure.kind == "worker_died" and "expert()" in bad.failure.message
        assert good.expert() == "go 0"  # in the next worker, where it began anew
        pool.step(good, "go")
        assert len(pool.wait()) == 1


def test_tools_that_hang_or_die() -> None:
    with Workers(1, SECONDS) as pool:
        for what, kind in (("sleep", "timeout"), ("exit", "worker_died"), ("raise", None)):
            env = pool.open(EnvSpec(f"{FILE}:Workshop"), 0)
            pool.wait()
            pool.step(env, format_call("do", what=what))
            ((_, answer),) = pool.wait()
            if kind is None:
                assert answer.observation.startswith("do failed: ZeroDivisionError") and not answer.ok
            else:
                assert isinstance(answer, EnvironmentFailure) and answer.kind == kind
            env.close()


def test_others_go_on_while_one_hangs() -> None:
    """In two workers; the one that hangs does so for longer than all others need to end."""
    with Workers(2, seconds=1.5) as pool:
        pool.patience = 0.1
        spec = mischief("hang_blocked")
        stuck, free = pool.open(spec, BAD), pool.open(spec, 1)
        pool.wait()
        ended = []
        for turn in range(4):
            for env in (stuck, free) if turn < 2 else (free,):
                pool.step(env, "go")
            ended += [env for env, step in pool.wait() if step.terminated]
        assert ended == [free]
        assert pool.wait(block=False) == []
        ((late, failure),) = pool.wait()
        assert late is stuck and failure.kind == "timeout"


def test_a_slow_step_is_only_late() -> None:
    with Workers(2, seconds=2.0) as pool:
        pool.patience = 0.1
        spec = mischief("slow", where="reset")
        slow, quick = pool.open(spec, BAD), pool.open(spec, 1)
        answers = pool.wait()
        if slow not in dict(answers):  # it began while the workers started, so it may have been in time
            assert [env for env, _ in answers] == [quick]
            answers += pool.wait()
        assert isinstance(dict(answers)[slow], Opening)


def test_an_episode_that_cannot_be_restored_says_so() -> None:
    with Workers(1, SECONDS) as pool:
        liar = pool.open(EnvSpec(ODD, {"honest": False}), 0)
        killer = pool.open(mischief("exit"), BAD)
        pool.wait()
        for _ in range(2):
            for env in (liar, killer):
                pool.step(env, "go")
            answers = dict(pool.wait())
        assert answers[killer].kind == "worker_died"
        pool.step(liar, "go")
        ((_, failure),) = pool.wait()
        assert failure.kind == NOT_RESTORED and "it is not the same" in failure.message


def test_a_worker_that_is_killed_between_two_steps_is_replaced(play, pids, healthy, tmp_path) -> None:
    with Workers(1, SECONDS) as pool:
        env = pool.open(EnvSpec(ODD, {"folder": str(tmp_path)}), 0)
        pool.wait()
        (pid,) = pids()
        os.kill(pid, signal.SIGKILL)
        pool.step(env, "x")
        ((_, step),) = pool.wait()
        assert step.observation == healthy[0][1]
        assert len(pids()) == 2


def test_workers_that_cannot_start_end_the_run(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = Workers(1, SECONDS)
    pool.open(EnvSpec(ODD), 0)
    with pytest.raises(RunError, match="2 in a row ended with code 1 before they were ready"):
        pool.wait()
    pool.close()


# The end of the parent

PARENT = """
import signal, sys, time
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.workers import Workers
# A shell's background jobs, tests among them, ignore it otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)
with Workers(2, 60.0) as pool:
    for seed in range(4):
        pool.open(EnvSpec({env!r}, {{"what": "sleep", "bad": [3], "folder": {folder!r}}}), seed)
    live = [env for env, _ in pool.wait()]
    for env in live:
        pool.step(env, "go")
    pool.wait()
    print("playing", flush=True)
    for env in live:
        pool.step(env, "go")
    pool.wait() and time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_parent(pids, alive, tmp_path, end) -> None:
    """One of the two workers hangs at that time, so it could not notice by itself."""
    code = PARENT.format(env=ODD, folder=str(tmp_path))
    path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"playing\n"
    time.sleep(0.1)
    workers = pids()
    assert len(workers) == 2 and all(map(alive, workers))
    parent.send_signal(end)
    _, printed = parent.communicate(timeout=10)
    assert parent.returncode
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert printed.count(b"KeyboardInterrupt") == (1 if end == signal.SIGINT else 0)  # workers say nothing


def test_what_an_environment_has_started_ends_with_its_worker(alive, tmp_path) -> None:
    """As a Java server would."""
    file = tmp_path / "starter.py"
    file.write_text(
        "import subprocess, time\nfrom trpd_envs import TextEnv\n\nclass Starter(TextEnv):\n"
        "    def start(self):\n        return str(subprocess.Popen(['sleep', '60']).pid)\n"
        "    def act(self, action):\n        time.sleep(60)\n"
    )
    with Workers(1, SECONDS) as pool:
        env = pool.open(EnvSpec(f"{file}:Starter"), 0)
        ((_, opening),) = pool.wait()
        pool.step(env, "go")
        ((_, failure),) = pool.wait()
        assert failure.kind == "timeout"
        deadline = time.monotonic() + 5
        while alive(int(opening.observation)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(int(opening.observation))
