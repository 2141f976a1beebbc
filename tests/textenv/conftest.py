"""What tests of pools share: playing all episodes of an environment, and looking at processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv import EnvSpec, Step
from trpd_agents.textenv.pool import EnvPool
from trpd_agents.textenv.workers import Workers

SECONDS = 0.5  # a step's limit in these tests


def _play(pool: EnvPool, spec: EnvSpec, seeds: Sequence[int] = range(6), rounds: int = 30) -> dict[int, list[Any]]:
    """What each episode answered, in order: observations, and the failure that ended it if one did."""
    said: dict[int, list[Any]] = {seed: [] for seed in seeds}
    live = {pool.open(spec, seed) for seed in seeds}
    for _ in range(rounds):
        if not live:
            return said
        for env, answer in pool.wait():
            if isinstance(answer, EnvironmentFailure):
                said[env.seed].append(answer)
            else:
                said[env.seed].append(answer.observation)
            if env in live and not _over(answer):
                pool.step(env, "x" * len(said[env.seed]))
            else:
                live.remove(env)
                env.close()
    raise AssertionError(f"{len(live)} episodes have not ended")


def _over(answer: Any) -> bool:
    return isinstance(answer, EnvironmentFailure) or (
        isinstance(answer, Step) and (answer.terminated or answer.truncated)
    )


@pytest.fixture(scope="session")
def play() -> Callable[..., dict[int, list[Any]]]:
    """`play(pool, spec, seeds)`: every episode to its end."""
    return _play


@pytest.fixture(scope="session")
def odd() -> str:
    """The id of an environment that misbehaves as told."""
    return f"{Path(__file__).parent / 'pool_envs.py'}:Odd"


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Two workers that all tests share which leave them alive."""
    with Workers(2, SECONDS, memory_mb=None) as pool:
        yield pool


@pytest.fixture(scope="session")
def alive() -> Callable[[int], bool]:
    """Whether a process runs; one that only waits to be reaped does not."""
    return _alive


@pytest.fixture
def pids(tmp_path: Path) -> Callable[[], set[int]]:
    """The processes in which `Odd(folder=tmp_path)` was made."""
    return lambda: {int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
