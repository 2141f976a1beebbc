"""Games in Java: one server in a process, worlds that do not meet, and experts that know where they stand."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java"),
    pytest.mark.skipif(
        importlib.util.find_spec("textworld_express") is None or importlib.util.find_spec("scienceworld") is None,
        reason="textworld_express and scienceworld are not both installed",
    ),
]

from trpd_agents.errors import UserError  # noqa: E402
from trpd_agents.textenv import AgentEnv, make  # noqa: E402
from trpd_agents.textenv.benchmarks import java  # noqa: E402


def patient(env_id: str, **kwargs: object) -> AgentEnv:
    env = make(env_id, **kwargs)
    env.seconds = 120.0
    return env


def test_a_process_has_one_server_for_all_of_its_episodes() -> None:
    envs = [patient("textworldexpress/TWC-v0") for _ in range(5)]
    for seed, env in enumerate(envs):
        env.reset(seed)
    mine = [archive for pid, archive in java._SERVERS if pid == os.getpid()]
    assert len(mine) == len(set(mine))
    process = next(s for (pid, name), s in java._SERVERS.items() if "textworld" in name).java_process
    for env in envs:
        env.close()
    patient("textworldexpress/TWC-v0").reset(9)
    assert process.poll() is None


def test_the_server_ends_with_its_process() -> None:
    code = (
        "import os, signal\n"
        "from trpd_agents.textenv import make\n"
        "from trpd_agents.textenv.benchmarks import java\n"
        "make('textworldexpress/TWC-v0').reset(0)\n"
        "print(next(iter(java._SERVERS.values())).java_process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    pid = int(done.stdout.split()[-1])
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().split()[2] == "Z":
                return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError("the Java server has outlived a process that was killed")


@pytest.mark.parametrize("game", ["CoinCollector-v0", "TWC-v0", "CookingWorld-v0"])
def test_after_detours_the_expert_finds_its_way_or_says_nothing(game: str) -> None:
    chance = random.Random(0)
    won = silent = 0
    for seed in range(10):
        env = patient(f"textworldexpress/{game}")
        env.reset(seed)
        for _ in range(2):
            env.step(chance.choice(env.legal_actions()))
        step = None
        while (action := env.expert()) is not None:
            step = env.step(action)
        won += bool(step and step.success)
        silent += step is None or not (step.terminated or step.truncated)
        env.close()
    assert won + silent == 10 and won >= 7  # what it says leads to success: it has tried


def test_splits_and_sizes_are_the_packages_own() -> None:
    train, test = patient("textworldexpress/TWC-v0"), patient("textworldexpress/TWC-v0", split="test")
    assert train.reset(0) != test.reset(0)
    small = patient("textworldexpress/CoinCollector-v0", params={"numLocations": 1, "includeDoors": 0})
    assert "door" not in small.reset(0)
    with pytest.raises(UserError, match="refuses params"):
        patient("textworldexpress/TWC-v0", params={"rooms": 3})
    with pytest.raises(UserError, match="Did you mean 'boil-v0'"):
        patient("scienceworld/boll-v0")
    with pytest.raises(UserError, match="simplification"):
        patient("scienceworld/boil-v0", simplifications="easi")


def test_the_solution_of_a_science_task_is_left_for_good_but_not_by_a_typing_error() -> None:
    env = patient("scienceworld/power-component-v0")
    env.reset(0)
    first = env.expert()
    assert first is not None
    assert not env.step("opn the door").ok and env.expert() == first
    assert env.step("wait1").ok and (env.expert() is None)
    env.close()


def test_a_wrong_focus_ends_a_science_task() -> None:
    env = patient("scienceworld/boil-v0", simplifications="easy")
    env.reset(0)
    step = env.step("focus on air")
    assert step.terminated and step.success is False and step.reward < 0
    env.close()
