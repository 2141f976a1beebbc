"""An episode while it is being played.

Invariant: its tokens are only ever appended to, and each engine is given every one of them once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trpd_agents.dialogue import Dialogue
from trpd_agents.errors import EnvironmentFailure
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Completion, Engine, Request, Sampling
from trpd_agents.textenv import Step
from trpd_agents.textenv.pool import EpisodeEnv
from trpd_agents.trajectory import Outcome, Trajectory, Turn
from trpd_envs.tools import Call, parse_calls


@dataclass(frozen=True)
class Episode:
    """Which episode to play: the environment's seed, and a key that is unique in the run and seeds the sampling."""

    seed: int
    key: int


@dataclass(frozen=True)
class Player:
    """A model that plays in the student's place, and what a conversation with it needs."""

    engine: Engine
    dialogues: Dialogues
    sampling: Sampling


@dataclass
class Live:
    """One episode from when its environment is asked for to its end.

    A match has two conversations, `seats`, about one environment; whoever is no student has a `player`.
    """

    episode: Episode
    env: EpisodeEnv
    dialogue: Dialogue | None = None  # None until the environment has said what it is about
    observation: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_start: int = 0
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    success: bool | None = None
    draw: bool | None = None
    started: float = field(default_factory=time.perf_counter)
    seats: dict[int, Live] = field(default_factory=dict)
    player: Player | None = None
    _given: dict[int, int] = field(default_factory=dict)  # per engine: how many of `tokens` it has

    @property
    def seat(self) -> int | None:
        """Whose conversation it is in a match."""
        return next((seat for seat, one in self.seats.items() if one is self), None)

    def at(self, seat: int | None) -> Live:
        """The conversation of a seat; of an environment without seats the only one."""
        return self if seat is None else self.seats.get(seat, self)

    def extend(self, ids: Sequence[int]) -> None:
        self.tokens.extend(ids)
        self.logprobs.extend([float("nan")] * len(ids))

    def request(self, engine: Engine, stream: int = 0, end: int | None = None) -> Request:
        """What `engine` has not been given yet of the tokens before `end` (all if None); now it has."""
        end = len(self.tokens) if end is None else end
        tokens = self.tokens[self._given.get(id(engine), 0) : end]
        self._given[id(engine)] = end
        return Request(self.episode.key, tokens, self.episode.key + stream, self.env)

    def act(self, engine: Engine, completion: Completion, author: str) -> Turn:
        """Write down the action that `engine` sampled as `author`'s."""
        assert self.dialogue is not None
        text = self.dialogue.text(completion.tokens)
        span = (len(self.tokens), len(self.tokens) + len(completion.tokens))
        turn = Turn((self.prompt_start, span[0]), span, author, completion.stop, self.observation, text)
        turn.calls = [{"name": c.name, "arguments": c.arguments} for c in parse_calls(text) if isinstance(c, Call)]
        self.tokens.extend(completion.tokens)
        # Only the student's own log-probabilities are the student's; a guiding teacher's are scored like everything
        # else.
        own = author == "student"
        self.logprobs.extend(completion.logprobs if own else [float("nan")] * len(completion.logprobs))
        self._given[id(engine)] = span[1]
        self.prompt_start = span[1]
        self.turns.append(turn)
        return turn

    def advance(self, step: Step) -> None:
        """Take in what the last action led to, but for the observation."""
        self.turns[-1].reward, self.turns[-1].ok = step.reward, step.ok
        self.reward += step.reward
        self.success, self.draw = step.success, step.draw

    def finish(
        self, version: int, outcome: Outcome, observation: str, failure: EnvironmentFailure | None = None
    ) -> Trajectory:
        """What happened in this episode, which ended with `observation`; `version` is the student's."""
        return Trajectory(
            id=self.episode.key,
            env_id=self.env.spec.id,
            env_kwargs=dict(self.env.spec.kwargs) | ({} if self.seat is None else {"seat": self.seat}),
            seed=self.episode.seed,
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            turns=self.turns,
            outcome=outcome,
            success=None if failure else bool(self.success),
            reward=self.reward,
            final_observation=observation,
            policy_version=version,
            error=None if failure is None else {"kind": failure.kind, "message": failure.message},
            instructions="" if self.dialogue is None else self.dialogue.instructions,
            tools=[] if self.dialogue is None else self.dialogue.tools,
            hint=self.env.hint,
            draw=None if failure else self.draw,
        )
