"""Where environments run does not matter to what is played, and what they do to their process is not the policy's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.collector import LOSSES, Schedule
from trpd_agents.teacher.oracle_engine import OracleEngine
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.episode_env import NOT_RESTORED
from trpd_agents.textenv.pool import EnvPool, InProcess
from trpd_agents.textenv.workers import Workers
from trpd_agents.trajectory import Outcome, Trajectory

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")

ODD = f"{Path(__file__).parents[1] / 'textenv' / 'pool_envs.py'}:Odd"
EPISODES = [Episode(seed, 100 + seed) for seed in (4, 1, 3, 0, 2, 5)]
LIMITS = Limits(max_turns=20, max_tokens=2000, parallel=4)
BAD = 3


@pytest.fixture
def collect(make_lm, tokenizer, ends) -> Callable[..., list[Trajectory]]:
    def play(pool: EnvPool | None, env: EnvSpec | None = None, **options) -> list[Trajectory]:
        sampling = Sampling(max_new_tokens=5, end_ids=ends, seed=3)
        return Collector(
            env or EnvSpec(ODD), TransformersEngine(make_lm(0)), tokenizer, sampling, LIMITS, pool
        ).collect(EPISODES, **options)

    return play


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[int, Workers]]:
    pools = {count: Workers(count, 5.0) for count in (1, 2, 3)}
    yield pools
    for pool in pools.values():
        pool.close()


def everything(trajectories: list[Trajectory]) -> list[dict]:
    """To the last bit of the log-probabilities; not the arguments of the environment, which say how to fail."""
    plain = [vars(dataclasses.replace(t, env_kwargs={})) for t in trajectories]
    return [{**one, "tokens": one["tokens"].tolist(), "logprobs": one["logprobs"].tobytes()} for one in plain]


@pytest.mark.parametrize("env", [EnvSpec(ODD), EnvSpec("KeyChain-v0", {"max_turns": 5})])
def test_results_do_not_depend_on_where_environments_run(collect, workers, env) -> None:
    wanted = everything(collect(None, env))
    for count in (1, 2, 3, 2):  # and a pool may be used again
        assert everything(collect(workers[count], env)) == wanted


def test_an_expert_in_a_worker_plays_as_one_here(workers, tokenizer, ends) -> None:
    spec, sampling = EnvSpec("Courier-v0"), Sampling(max_new_tokens=64, end_ids=ends)
    wanted = Collector(spec, OracleEngine(tokenizer), tokenizer, sampling, LIMITS).collect(EPISODES)
    found = Collector(spec, OracleEngine(tokenizer), tokenizer, sampling, LIMITS, workers[2]).collect(EPISODES)
    assert everything(found) == everything(wanted)
    assert all(t.success for t in found)


@pytest.mark.parametrize(("what", "where"), [("exit", "reset"), ("sleep", "step"), ("segfault", "expert")])
def test_an_episode_that_failed_once_is_played_again(collect, tokenizer, ends, tmp_path, what, where) -> None:
    """Whatever happened to the others in its worker, all end as if nothing had happened."""
    env = EnvSpec(ODD, {"what": what, "where": where, "bad": [BAD], "folder": str(tmp_path), "times": 1})
    with Workers(2, seconds=0.5) as pool:
        if where == "expert":  # the oracle asks for it
            sampling = Sampling(max_new_tokens=64, end_ids=ends)
            played = [
                Collector(spec, OracleEngine(tokenizer), tokenizer, sampling, LIMITS, where_to).collect(EPISODES)
                for spec, where_to in ((env, pool), (EnvSpec(ODD), InProcess()))
            ]
        else:
            played = [collect(pool, env), collect(None)]
    assert (tmp_path / f"{BAD}-0").exists()
    for found, wanted in zip(*played, strict=True):
        assert found.error is None
        assert found.tokens.tolist() == wanted.tokens.tolist() and found.turns == wanted.turns
        assert np.allclose(found.logprobs, wanted.logprobs, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("what", "kind"), [("exit", "worker_died"), ("sleep", "timeout")])
def test_an_episode_that_always_fails_is_an_error_and_the_others_are_not(collect, what, kind) -> None:
    with Workers(1, seconds=0.4) as pool:
        played = collect(pool, EnvSpec(ODD, {"what": what, "bad": [BAD]}))
    for found, wanted in zip(played, collect(None), strict=True):
        if found.seed == BAD:
            assert found.error is not None and found.error["kind"] == kind
            assert found.outcome is Outcome.ERROR and found.success is None and len(found.turns) == 2
        else:
            assert found.error is None and found.tokens.tolist() == wanted.tokens.tolist()


def test_while_one_hangs_the_others_come_to_their_end(collect) -> None:
    order: list[int] = []
    with Workers(2, seconds=1.5) as pool:
        pool.patience = 0.1
        env = EnvSpec(ODD, {"what": "sleep", "where": "reset", "bad": [BAD]})
        collect(pool, env, on_finish=lambda t: order.append(t.seed))
    assert sorted(order) == sorted(e.seed for e in EPISODES)
    assert {1, 0, 2, 5} <= set(order[: order.index(BAD)])  # all that were not in the worker that hung


@pytest.mark.parametrize("pool", [lambda: InProcess(), lambda: Workers(2, 5.0)])
def test_episodes_that_were_interrupted_do_not_answer_to_the_next(collect, pool) -> None:
    def interrupt(_: Trajectory) -> None:
        raise KeyboardInterrupt

    with pool() as player:
        with pytest.raises(KeyboardInterrupt):
            collect(player, on_finish=interrupt)
        assert everything(collect(player)) == everything(collect(None))


def test_an_innocent_episode_that_is_lost_has_not_failed() -> None:
    def ended(error: str | None) -> Trajectory:
        nothing = np.zeros(0)
        found = Trajectory(7, ODD, {}, 1, nothing, nothing, [], Outcome.ERROR, None, 0.0, "", 0)
        return dataclasses.replace(found, error=None if error is None else {"kind": error, "message": ""})

    schedule = Schedule([Episode(1, 7)], retries=1, on_finish=None)
    for _ in range(LOSSES):
        assert schedule.take(5) == [Episode(1, 7)]
        schedule.settle(ended(NOT_RESTORED))
    schedule.take(1)
    schedule.settle(ended("timeout"))  # its own failure is another matter
    assert schedule.take(1) and not schedule.finished
    schedule.settle(ended(NOT_RESTORED))  # there is an end to this, too
    assert not schedule.waiting and schedule.finished[7][0].error is not None
