"""An environment in a worker answers as it does here, and one that hangs, dies or lies is one failed episode."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from trpd_agents.errors import UserError
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.textenv.open_pool import open_pool
from trpd_agents.textenv.pool import EnvPool, InProcess
from trpd_agents.textenv.resolve import bundled_ids
from trpd_agents.textenv.workers import Workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")

FILE = Path(__file__).parent / "pool_envs.py"
ODD = f"{FILE}:Odd"
SECONDS = 0.5  # a step's limit in these tests
SEEDS = range(6)


# The same episodes, wherever they are played


@pytest.mark.parametrize("name", [ODD, "Courier-v0"])
def test_a_worker_plays_the_same_episodes(workers, name, play) -> None:
    here = play(InProcess(), EnvSpec(name))
    assert play(workers, EnvSpec(name)) == here
    assert play(workers, EnvSpec(name), [3]) == {3: here[3]}  # alone, too


@pytest.mark.parametrize("pool", ["here", "there"])
def test_what_draws_from_global_generators_depends_on_its_seed_alone(workers, pool, play) -> None:
    player = InProcess() if pool == "here" else workers
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    together = play(player, EnvSpec(ODD))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # and the caller's are left alone
    assert {seed: play(player, EnvSpec(ODD), [seed])[seed] for seed in SEEDS} == together
    assert len({texts[0].split(" ", 1)[1] for texts in together.values()}) == len(SEEDS)


def test_a_mixture_is_played_by_its_members(workers, play) -> None:
    both = EnvSpec("mixture", {"environments": [{"id": "KeyChain-v0"}, {"id": ODD}]})
    here = play(InProcess(), both, range(8))
    assert play(workers, both, range(8)) == here
    with open_pool("auto", seconds=SECONDS) as pool:
        assert play(pool, both, range(8)) == here
        env = pool.open(both, 0)
        assert env.spec.id in ("KeyChain-v0", ODD)


def test_a_handle_says_what_the_environment_says(workers) -> None:
    handles = {env: opening for env, opening in [*_opened(workers), *_opened(InProcess())]}
    for env, opening in handles.items():
        alone = make(env.spec)
        assert opening.observation == env.opening == alone.reset(env.seed)
        names = ("spec", "instructions", "tools", "hint", "max_turns", "has_expert", "has_legal_actions")
        assert [getattr(env, name) for name in names] == [getattr(alone, name) for name in names]
        assert env.expert() == alone.expert()
        assert env.optimal_actions() == alone.optimal_actions()
        assert env.legal_actions() == alone.legal_actions()
        env.close()


def _opened(pool: EnvPool) -> list[tuple[Any, Any]]:
    for spec in (EnvSpec("KeyChain-v0"), EnvSpec("GuessNumber-v0", {"high": 9})):
        pool.open(spec, 3)
    return pool.wait()


def test_an_action_is_cut_to_what_the_environment_takes(workers) -> None:
    for name, wanted in ((ODD, "0.1 2000"), (f"{FILE}:Greedy", "5000 characters")):
        env = workers.open(EnvSpec(name), 0)
        workers.wait()
        workers.step(env, "a\0\ud800" * 100_000)
        ((_, step),) = workers.wait()
        assert step.observation.startswith(wanted)
        env.close()


def test_what_is_printed_does_not_reach_our_output(capfd, play) -> None:
    with Workers(1, SECONDS) as pool:
        assert len(play(pool, EnvSpec(ODD, {"what": "print", "bad": [0]}), [0])[0]) == 4
    printed = capfd.readouterr()
    assert "noise" not in printed.out and "noise" in printed.err


def test_workers_stay_until_the_pool_is_closed(tmp_path, play, pids, alive) -> None:
    spec = EnvSpec(ODD, {"folder": str(tmp_path)})
    with Workers(2, SECONDS) as pool:
        assert play(pool, spec) == play(pool, spec)
        assert len(pids()) == 2
        assert all(map(alive, pids()))
    assert not any(map(alive, pids()))


# Which pool


def test_the_bundled_environments_declare_that_they_may_be_played_here() -> None:
    undeclared = [name for name in bundled_ids() if not make(name).in_process]
    assert not undeclared


def test_what_declares_nothing_is_played_elsewhere(tmp_path, play, pids) -> None:
    class Sub(type(make("GridLake-v0").env.unwrapped)):  # type: ignore[misc]
        """Whatever this does, GridLake has not declared it."""

    gymnasium.register("test/Sub-v0", Sub)
    try:
        assert not make("test/Sub-v0").in_process
    finally:
        del gymnasium.registry["test/Sub-v0"]
    with open_pool("auto", seconds=SECONDS) as pool:
        play(pool, EnvSpec(ODD, {"folder": str(tmp_path)}), [0, 1])
        play(pool, EnvSpec("GridLake-v0"), [0])
    assert os.getpid() not in pids() - {os.getpid()}
    assert len(pids() - {os.getpid()}) >= 1


def test_an_id_that_only_this_process_knows(workers, play) -> None:
    gymnasium.register("test/Local-v0", entry_point="trpd_envs.gridlake:GridLake", kwargs={"size": 3})
    gymnasium.register("test/Unsendable-v0", entry_point=lambda: make("GridLake-v0").env)
    try:
        assert play(workers, EnvSpec("test/Local-v0")) == play(InProcess(), EnvSpec("test/Local-v0"))
        with pytest.raises(UserError, match="name it 'path/file.py:Class'"):
            play(workers, EnvSpec("test/Unsendable-v0"))
        workers.abandon()
        with open_pool("auto") as pool:
            assert len(play(pool, EnvSpec("test/Unsendable-v0"))) == len(SEEDS)
    finally:
        del gymnasium.registry["test/Local-v0"], gymnasium.registry["test/Unsendable-v0"]


def test_the_users_mistakes_are_the_users(workers, play) -> None:
    for spec, message in ((EnvSpec("KeyChian-v0"), "Did you mean 'KeyChain-v0'"), (EnvSpec(ODD, {"a": 1}), "accepts")):
        workers.open(spec, 0)
        with pytest.raises(UserError, match=message):
            workers.wait()
        workers.abandon()
    assert len(play(workers, EnvSpec(ODD), [0])[0]) == 4  # and the pool goes on
