"""Every adapter on the real benchmark: the contract of an environment, whichever package plays."""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from trpd_agents.textenv import AgentEnv, EnvSpec, check_environment, make
from trpd_agents.textenv.benchmarks import find

pytestmark = pytest.mark.slow

GARBAGE = ("", "\0", "\ud800", "9" * 5000, "x" * 200_000, "<tool_call>", "</tool_call>{", "save", "é 漢 \n\t", "quit")
# id: turns that its expert may take, over three seeds
IDS = {
    "babyai/GoToLocal-v0": 30,
    "babyai/PickupLoc-v0": 30,
    "babyai/Open-v0": 250,
    "babyai/BossLevel-v0": 300,
    "textworldexpress/CoinCollector-v0": 50,
    "textworldexpress/TWC-v0": 50,
    "textworldexpress/CookingWorld-v0": 100,
    "scienceworld/power-component-v0": 40,
    "bfcl/multi_turn_base-v0": 60,
    "bfcl/multi_turn_miss_func-v0": 60,
    "bfcl/multi_turn_miss_param-v0": 60,
    "bfcl/multi_turn_long_context-v0": 60,
    "textworld/generated": 10,
}
JAVA = ("textworldexpress/", "scienceworld/")


@pytest.fixture(params=IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    found = find(request.param)
    assert found is not None
    if importlib.util.find_spec(found[0].package) is None:
        pytest.skip(f"{found[0].package} is not installed")
    if request.param.startswith(JAVA) and shutil.which("java") is None:
        pytest.skip("there is no Java")
    return request.param


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path_factory.getbasetemp() / "games"))


def patient(env_id: str) -> AgentEnv:
    env = make(env_id)
    env.seconds = 120.0  # the machine may be busy
    return env


def test_the_expert_succeeds_and_an_episode_ends(env_id: str) -> None:
    for seed in range(3):
        env = patient(env_id)
        assert env.reset(seed) and env.instructions
        steps = []
        while not steps or not (steps[-1].terminated or steps[-1].truncated):
            action = env.expert()
            assert action is not None, (env_id, seed, len(steps))
            steps.append(env.step(action))
        assert steps[-1].success and len(steps) <= IDS[env_id], (env_id, seed)
        assert sum(step.reward for step in steps) == pytest.approx(1.0, abs=1e-6)
        assert env.expert() is None and env.legal_actions() == []
        env.close()


def test_a_seed_decides_the_episode_whatever_is_played_beside_it(env_id: str) -> None:
    first, again, other = patient(env_id), patient(env_id), patient(env_id)
    played: list[object] = [first.reset(4), first.instructions, first.tools]
    chance = random.Random(1)
    actions = []
    for _ in range(6):
        actions.append(chance.choice(first.legal_actions() or ["look"]))
        step = first.step(actions[-1])
        played.append(step)
        if step.terminated:
            break
    state, numpy_state = random.getstate(), np.random.get_state()[1].tolist()
    replayed: list[object] = [again.reset(4), again.instructions, again.tools]
    assert other.reset(5) != played[0]
    for action in actions:
        replayed.append(again.step(action))
        if isinstance(expert := other.expert(), str) and not other.step(expert).terminated:
            other.legal_actions()
    assert replayed == played
    assert random.getstate() == state and np.random.get_state()[1].tolist() == numpy_state
    for env in (first, again, other):
        env.close()


def test_garbage_is_answered_refused_and_never_rewarded(env_id: str) -> None:
    env = make(EnvSpec(env_id, {"max_turns": len(GARBAGE)}))
    env.seconds = 120.0
    env.reset(0)
    for turn, text in enumerate(GARBAGE):
        step = env.step(text)
        assert step.observation and step.reward <= 0 and not step.success
        # A text without a call ends a request of bfcl, which is nothing to refuse.
        assert not step.ok or env_id.startswith("bfcl/")
        if step.terminated:
            assert env_id.startswith("bfcl/")
            break
        assert step.truncated == (turn == len(GARBAGE) - 1)
    env.close()


def test_what_is_listed_as_legal_is_accepted(env_id: str) -> None:
    env = patient(env_id)
    env.reset(1)
    chance = random.Random(0)
    accepted = []
    for _ in range(12):
        step = env.step(chance.choice(env.legal_actions()))
        accepted.append(step.ok)
        if step.terminated or step.truncated:
            break
    if env_id.startswith("babyai/"):
        assert all(accepted)
    else:  # packages list some that they answer with "that is already open", and APIs answer with errors
        assert sum(accepted) >= len(accepted) / 2
    env.close()


def test_it_passes_the_check_that_precedes_a_run(env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_environment(env_id)
    assert capsys.readouterr().out == ""  # pygame greets, minigrid reports, textworld asks


def test_nothing_is_written_into_the_working_directory(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = patient(env_id)
    env.reset(2)
    for command in ("save", "save game", "script on", "transcript", "look. save", "record"):
        if env.step(command).terminated:
            break
    env.close()
    assert list(tmp_path.iterdir()) == []
