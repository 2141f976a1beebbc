"""Environments for many episodes at once, wherever they run.

Invariant: what an episode's environment answers depends on its arguments, its seed and its actions, and not on the
pool, the number of worker processes or the other episodes. An environment that fails, hangs or takes its process down
is one failed episode.

A pool is asked for many things first (`open`, `step`), and `wait` gives the answers:

    env = pool.open(spec, seed)
    (_, opening), = pool.wait()
    pool.step(env, "go north")
    (_, step), = pool.wait()
    env.close()

It serves one caller at a time, and may serve many one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, Self

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.textenv.agent_env import Step
from trpd_agents.textenv.episode_env import Opening, Stage
from trpd_agents.textenv.mixture import drawn
from trpd_agents.textenv.spec import EnvSpec

STEP_SECONDS = 10.0  # for one reset or step


class EnvView(Protocol):
    """What a player may ask of the environment it plays in. An `AgentEnv` is one, too."""

    @property
    def spec(self) -> EnvSpec: ...
    @property
    def instructions(self) -> str: ...
    @property
    def tools(self) -> list[dict[str, Any]]: ...
    @property
    def opening(self) -> str: ...
    @property
    def hint(self) -> str | None: ...
    def expert(self) -> str | None: ...
    def optimal_actions(self) -> list[str]: ...
    def legal_actions(self) -> list[str]: ...


class EpisodeEnv(ABC):
    """The environment of one episode, as its player sees it; `EnvPool.open` makes them.

    What an `AgentEnv` says of itself it says too, from the moment the pool has answered its opening. A solver that
    fails is not an error of the player who asked: it knows nothing then, and the next step is answered with its
    failure.
    """

    def __init__(self, spec: EnvSpec, seed: int):
        self.spec = spec  # of a mixture the environment that was drawn
        self.seed = seed
        self.opening = self.instructions = ""
        self.tools: list[dict[str, Any]] = []
        self.hint: str | None = None
        self.max_turns: int | None = None
        self.has_expert = self.has_legal_actions = False
        self.failure: EnvironmentFailure | None = None

    def begin(self, opening: Opening) -> None:
        self.opening, self.instructions, self.tools = opening.observation, opening.instructions, opening.tools
        self.hint, self.max_turns = opening.hint, opening.max_turns
        self.has_expert, self.has_legal_actions = opening.has_expert, opening.has_legal_actions

    def expert(self) -> str | None:
        return self._ask("expert")

    def optimal_actions(self) -> list[str]:
        return self._ask("optimal_actions") or []

    def legal_actions(self) -> list[str]:
        return self._ask("legal_actions") or []

    def _ask(self, method: str) -> Any:
        if self.failure is None:
            try:
                return self._answer(method)
            except EnvironmentFailure as failure:
                self.failure = failure
        return None

    @abstractmethod
    def _answer(self, method: str) -> Any:
        """What the environment's `method` returns now."""

    @abstractmethod
    def close(self) -> None:
        """The episode is over, as far as its player is concerned."""


Answer = tuple[EpisodeEnv, Opening | Step | EnvironmentFailure]


class EnvPool(ABC):
    """See the module's docstring. Closed at the end of a `with`."""

    @abstractmethod
    def open(self, spec: EnvSpec, seed: int) -> EpisodeEnv:
        """Ask for the episode of `seed`."""

    @abstractmethod
    def step(self, env: EpisodeEnv, action: str) -> None:
        """Ask for the next step of an episode that has answered everything so far."""

    @abstractmethod
    def wait(self, block: bool = True) -> list[Answer]:
        """What was answered, in the order in which it was asked for.

        Usually that is everything that was asked for. Where a single reset or step takes long, it is the rest, and
        that answer comes with a later call: so one environment that hangs holds up nobody else. With `block` there is
        at least one answer if any is outstanding.

        Raises:
            UserError: an environment cannot be made, or says nonsense of itself.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Give up all episodes, whatever they are doing."""

    def close(self) -> None:
        self.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class InProcess(EnvPool):
    """Plays where it is called, one after another; `seconds` limit each reset and step (see `time_limit`)."""

    def __init__(self, seconds: float = STEP_SECONDS):
        self.seconds = seconds
        self._asked: list[tuple[_Here, str | None]] = []
        self._open: dict[_Here, None] = {}

    def open(self, spec: EnvSpec, seed: int) -> EpisodeEnv:
        env = _Here(self, drawn(spec, seed), seed)
        self._open[env] = None
        self._asked.append((env, None))
        return env

    def step(self, env: EpisodeEnv, action: str) -> None:
        assert isinstance(env, _Here)
        self._asked.append((env, action))

    def wait(self, block: bool = True) -> list[Answer]:
        asked, self._asked = self._asked, []
        return [(env, env.play(action, self.seconds)) for env, action in asked]

    def abandon(self) -> None:
        self._asked = []
        for env in list(self._open):
            env.close()

    def forget(self, env: _Here) -> None:
        self._open.pop(env, None)


class _Here(EpisodeEnv):
    def __init__(self, pool: InProcess, spec: EnvSpec, seed: int):
        super().__init__(spec, seed)
        self._pool = pool
        self._stage: Stage | None = None

    def play(self, action: str | None, seconds: float) -> Opening | Step | EnvironmentFailure:
        """Take an action; None begins the episode."""
        try:
            if self.failure is not None:
                raise self.failure
            if action is not None:
                assert self._stage is not None
                return self._stage.step(action)
            self._stage = Stage(self.spec, self.seed, seconds)
            opening = self._stage.open()
        except EnvironmentFailure as failure:
            return failure
        self.begin(opening)
        return opening

    def _answer(self, method: str) -> Any:
        assert self._stage is not None
        return self._stage.ask(method)

    def close(self) -> None:
        self._pool.forget(self)
        if self._stage is not None:
            self._stage.close()
            self._stage = None
