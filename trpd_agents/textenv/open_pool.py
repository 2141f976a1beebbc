"""Which pool a run plays in: worker processes, except for environments that declare that they need none.

Every environment but a declared one gets a worker by default. That costs a third of a second once, to start it, and
well under a millisecond a step; without it a hang in C code, a crash, a leak, or a draw from the process's random
generators is trouble for the run and not for one episode.
"""

from __future__ import annotations

import os
from typing import Literal

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.mixture import drawn
from trpd_agents.textenv.pool import STEP_SECONDS, Answer, EnvPool, EpisodeEnv, InProcess
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.worker_messages import registration_of
from trpd_agents.textenv.workers import MEMORY_MB, Workers

MOST_WORKERS = 16  # of "auto": more than that are seldom worth the messages


def open_pool(
    workers: int | Literal["auto"] = "auto",
    *,
    seconds: float = STEP_SECONDS,
    memory_mb: int | None = MEMORY_MB,
    share: int = 1,
) -> EnvPool:
    """A pool to close after use.

    Args:
        workers: 0 plays everything in this process; "auto" only what declares `in_process`, and the rest in one worker
            per core.
        seconds: for one reset or step.
        memory_mb: see `Workers`.
        share: how many processes share the machine's cores, each with a pool.

    Raises:
        UserError: workers are asked for on a platform without POSIX processes.
    """
    if workers == 0 or (workers == "auto" and os.name != "posix"):
        return InProcess(seconds)
    if os.name != "posix":
        raise UserError(f"env.workers={workers}: worker processes need Linux or macOS; set it to 0 here")
    if workers == "auto":
        return ByDeclaration(InProcess(seconds), Workers(cores(share), seconds, memory_mb))
    return Workers(workers, seconds, memory_mb)


def cores(share: int = 1) -> int:
    """How many workers "auto" means, at most."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, available // share))


class ByDeclaration(EnvPool):
    """Plays `here` what declares that it may be, and what no other process can find; everything else `there`."""

    def __init__(self, here: InProcess, there: Workers):
        self._here, self._there = here, there
        self._fit: dict[str, bool] = {}
        self._asked: dict[EpisodeEnv, None] = {}  # in this order, and not answered yet

    def open(self, spec: EnvSpec, seed: int) -> EpisodeEnv:
        spec = drawn(spec, seed)
        env = (self._here if self._fits(spec) else self._there).open(spec, seed)
        self._asked[env] = None
        return env

    def step(self, env: EpisodeEnv, action: str) -> None:
        (self._here if self._fits(env.spec) else self._there).step(env, action)
        self._asked[env] = None

    def wait(self, block: bool = True) -> list[Answer]:
        self._there.pump()  # workers begin before this process does
        answers = dict(self._here.wait())
        answers |= dict(self._there.wait(block and not answers))
        ordered = [(env, answers[env]) for env in self._asked if env in answers]
        for env, _ in ordered:
            del self._asked[env]
        return ordered

    def abandon(self) -> None:
        self._asked = {}
        self._here.abandon()
        self._there.abandon()

    def close(self) -> None:
        self._here.close()
        self._there.close()

    def _fits(self, spec: EnvSpec) -> bool:
        key = repr((spec.id, spec.kwargs))
        if key not in self._fit:
            self._fit[key] = _declared(spec) or not _can_be_sent(spec)
        return self._fit[key]


def _declared(spec: EnvSpec) -> bool:
    try:
        env = make(spec)
    except EnvironmentFailure:
        return False
    try:
        return env.in_process
    finally:
        env.close()


def _can_be_sent(spec: EnvSpec) -> bool:
    try:
        registration_of(spec)
    except UserError:
        return False
    return True
