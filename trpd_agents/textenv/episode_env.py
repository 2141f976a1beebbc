"""One episode of one environment, in the process where it is played.

`Stage` holds the environment; `Opening` is what it says of itself when the episode begins, as plain data that can be
sent between processes. Invariant: an episode is a function of its environment's arguments, its seed and its actions, by
whichever generators the environment draws: unless it declares itself `in_process`, those of the whole process are its
own while it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.agent_env import AgentEnv, Step
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.global_random import GlobalRandom
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.time_limit import TimeExpired, call_within

T = TypeVar("T")

CONSTRUCTION_SECONDS = 60.0  # for importing and constructing, which happens before an episode's clock starts to matter
NOT_RESTORED = "not_restored"


@dataclass(frozen=True)
class Opening:
    """The first observation, and what a player may know from then on."""

    observation: str
    instructions: str
    tools: list[dict[str, Any]]
    hint: str | None
    max_turns: int | None
    has_expert: bool
    has_legal_actions: bool
    seat: int | None = None  # whose turn it is, in an environment with several


class Stage:
    """An environment made for the episode of `seed`; `seconds` limit each of its resets and steps."""

    _random: contextlib.AbstractContextManager[None]
    _declared: ClassVar[set[str]] = set()  # ids of classes known to be `in_process`: switching generators takes time

    def __init__(self, spec: EnvSpec, seed: int, seconds: float):
        self.spec, self.seed = spec, seed
        self._random = contextlib.nullcontext() if spec.id in self._declared else GlobalRandom(seed)
        self.env: AgentEnv = self._isolated(self._make)
        self.env.seconds = seconds
        if self.env.in_process:
            self._declared.add(spec.id)
            self._random = contextlib.nullcontext()

    def open(self) -> Opening:
        return self._isolated(self._open)

    def step(self, action: str) -> Step:
        return self._isolated(self.env.step, action)

    def ask(self, method: str) -> Any:
        """What the environment's `expert`, `optimal_actions` or `legal_actions` says."""
        return self._isolated(getattr(self.env, method))

    def close(self) -> None:
        self._isolated(self.env.close)

    def restore(self, opening: str, history: Sequence[tuple[str, str]], tick: Callable[[], None]) -> Opening:
        """Bring the episode to where it was, by its actions and what was observed after each; `tick` before each.

        Raises:
            EnvironmentFailure: it is not the same episode (`NOT_RESTORED`).
        """
        try:
            tick()
            opened = self.open()
            self._compare(opening, opened.observation, 0)
            for turn, (action, observation) in enumerate(history):
                tick()
                step = self.step(action)
                self._compare(observation, step.observation, turn + 1)
                if step.terminated or step.truncated:
                    raise self._not_restored(f"it ended after turn {turn + 1}")
        except EnvironmentFailure as failure:
            if failure.kind in (NOT_RESTORED, "timeout"):
                raise
            raise self._not_restored(failure.message) from failure
        return opened

    def _make(self) -> AgentEnv:
        try:
            return call_within(CONSTRUCTION_SECONDS, make, self.spec)
        except TimeExpired as expired:
            message = f"environment {self.spec.id}: being made took more than {CONSTRUCTION_SECONDS:g} s"
            raise EnvironmentFailure("timeout", f"{message}: {blame(expired)}") from None

    def _open(self) -> Opening:
        env = self.env
        observation = env.reset(self.seed)
        about = env.instructions, env.tools, env.hint, env.max_turns, env.has_expert, env.has_legal_actions
        return Opening(observation, *about, env.seat)

    def _isolated(self, function: Callable[..., T], *args: Any) -> T:
        with self._random:
            return function(*args)

    def _compare(self, wanted: str, found: str, turns: int) -> None:
        if found != wanted:
            raise self._not_restored(f"after {turns} turns it observed {found!r:.200}, the first time {wanted!r:.200}")

    def _not_restored(self, why: str) -> EnvironmentFailure:
        return EnvironmentFailure(
            NOT_RESTORED,
            f"environment {self.spec.id}: the worker process of the episode with seed {self.seed} died through another "
            f"episode, and played again with the same seed and actions it is not the same: {why}",
        )
