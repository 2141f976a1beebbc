"""Playing an environment in order to find out about it: episodes written down so that they can be compared.

Invariant: what is compared was played with the same actions. They are chosen once, with the help of the environment's
expert where it has one, and then replayed without asking anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.agent_env import AgentEnv, Step
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.checks.actions import random_call
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.time_limit import TimeExpired, call_within

T = TypeVar("T")

CONSTRUCTION = 6  # times the limit of a step: what making an environment may take
MOST_TURNS = 60  # of an episode that is compared; its first ones show what there is to see
WATCHED = range(3)  # seeds of the episodes that several checks look at


@dataclass
class Episode:
    """What was seen of one episode. Two of them are equal when a player could not tell them apart."""

    opening: str
    steps: list[Step] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return bool(self.steps) and (self.steps[-1].terminated or self.steps[-1].truncated)

    @property
    def success(self) -> bool | None:
        return self.steps[-1].success if self.steps else None

    @property
    def observations(self) -> list[str]:
        return [self.opening, *(step.observation for step in self.steps)]


@dataclass(frozen=True)
class Settings:
    """How to check. `seconds` limit a reset or a step, `budget` (seconds) is what a check aims to take at most."""

    seeds: int = 20
    max_turns: int | None = None
    seconds: float = 10.0
    budget: float = 30.0

    @property
    def patience(self) -> float:
        """Seconds after which a check is taken to hang: its budget, a construction and two steps at their limits."""
        return self.budget + (CONSTRUCTION + 2) * self.seconds


class Probe:
    """`note` is told what is about to be tried, for the case that it never returns."""

    def __init__(self, spec: EnvSpec, settings: Settings, note: Callable[[str], None] = lambda what: None):
        self.spec, self.settings, self.note = spec, settings, note
        self.deadline = time.monotonic() + settings.budget
        self._recorded: dict[int, tuple[list[str], Episode]] = {}

    def within(self, items: Iterable[T]) -> Iterator[T]:
        """The items, as far as the budget of this check goes; at least one."""
        for number, item in enumerate(items):
            if number and time.monotonic() > self.deadline:
                return
            yield item

    @contextmanager
    def made(self) -> Iterator[AgentEnv]:
        """A new instance, closed afterwards."""
        limit = CONSTRUCTION * self.settings.seconds
        try:
            env = call_within(limit, make, self.spec)
        except TimeExpired as expired:
            message = f"environment {self.spec.id}: being made took more than {limit:g} s: {blame(expired)}"
            raise EnvironmentFailure("timeout", message) from None
        env.seconds = self.settings.seconds
        try:
            yield env
        finally:
            env.close()

    def limit(self, env: AgentEnv) -> int:
        """The turns of an episode that is compared."""
        return min(limit for limit in (env.max_turns, self.settings.max_turns, MOST_TURNS) if limit is not None)

    def record(self, seed: int) -> tuple[list[str], Episode]:
        """The actions of an episode, chosen as it goes along, and what came of them."""
        if seed not in self._recorded:
            with self.made() as env:
                rng = Random(f"check {seed}")
                episode = Episode(env.reset(seed))
                actions: list[str] = []
                while not episode.ended and len(actions) < self.limit(env):
                    actions.append(some_action(env, episode.observations[-1], rng))
                    episode.steps.append(env.step(actions[-1]))
            self._recorded[seed] = actions, episode
        return self._recorded[seed]

    def replay(self, seed: int, actions: Sequence[str]) -> Episode:
        """The same actions on a new instance."""
        with self.made() as env:
            return play_script(env, seed, actions)

    def expert_episode(self, env: AgentEnv, seed: int) -> Episode:
        """An episode by the environment's expert, up to where it knows no action any more."""
        episode = Episode(env.reset(seed))
        own, asked = env.max_turns, self.settings.max_turns
        limit = min((turns for turns in (own, asked) if turns is not None), default=1000) * env.seats
        while not episode.ended and len(episode.steps) < limit and (action := env.expert()) is not None:
            episode.steps.append(env.step(action))
        return episode


def play_script(env: AgentEnv, seed: int, actions: Sequence[str]) -> Episode:
    """Reset `env` and take `actions`, up to the end of the episode."""
    episode = Episode(env.reset(seed))
    for action in actions:
        if episode.ended:
            break
        episode.steps.append(env.step(action))
    return episode


def some_action(env: AgentEnv, observation: str, rng: Random) -> str:
    """What could be done: the expert's action, a legal one, a tool's call, or a word of the observation."""
    options = [action for action in [env.expert()] if action is not None]
    if legal := env.legal_actions():
        options.append(rng.choice(legal))
    if env.tools:
        options.append(random_call(env.tools, observation, rng))
    return rng.choice(options or observation.split()[-20:] or ["hello"])


def first_difference(one: Episode, other: Episode) -> str | None:
    """Where two episodes of the same actions part, in words; None when they are alike."""
    if one.opening != other.opening:
        return f"the first observation is {one.opening!r:.80} in one and {other.opening!r:.80} in the other"
    for turn, (a, b) in enumerate(zip(one.steps, other.steps, strict=False), 1):
        for name in ("observation", "reward", "terminated", "truncated", "ok", "success"):
            x: Any = getattr(a, name)
            y: Any = getattr(b, name)
            if x != y:
                return f"after turn {turn} {name} is {x!r:.80} in one and {y!r:.80} in the other"
    if len(one.steps) != len(other.steps):
        return f"one ends after {len(one.steps)} turns and the other after {len(other.steps)}"
    return None
