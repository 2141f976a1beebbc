"""The collector: drives many episodes at once, and writes down token by token what happened.

Each round asks the engine for one action of every live episode, steps the environments, and feeds the observations
back. An episode's tokens are only ever appended to. A fault of the environment is not the policy's failure: the episode
is played again from the start with a fresh environment, and if that fails too it is recorded with its error and no
success.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from trpd_agents.dialogue import Dialogue
from trpd_agents.errors import EnvironmentFailure
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Completion, Engine, Request, Sampling
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Outcome, Trajectory, Turn
from trpd_envs.tools import Call, parse_calls

TEACHER_STREAM = 1 << 40  # keeps a guiding teacher's draws apart from the student's for the same episode


@dataclass(frozen=True)
class Episode:
    """Which episode to play: the environment's seed, and a key that is unique in the run and seeds the sampling."""

    seed: int
    key: int


@dataclass(frozen=True)
class Limits:
    """Where an episode ends if the environment does not end it."""

    max_turns: int
    max_tokens: int = 4096  # of the whole conversation
    episode_seconds: float = 600.0
    parallel: int = 256  # episodes at once
    retries: int = 1  # fresh starts after an environment failure


@dataclass(frozen=True)
class Guide:
    """A teacher that plays the first `turns` turns of every episode instead of the student."""

    engine: Engine
    turns: int


@dataclass
class _Live:
    episode: Episode
    env: AgentEnv
    dialogue: Dialogue
    observation: str
    started: float
    tokens: list[int]
    logprobs: list[float]
    prompt_start: int = 0
    turns: list[Turn] = field(default_factory=list)
    fed: dict[int, int] = field(default_factory=dict)  # per engine: how many of `tokens` it has seen
    reward: float = 0.0
    success: bool | None = None

    def extend(self, ids: Sequence[int]) -> None:
        self.tokens.extend(ids)
        self.logprobs.extend([float("nan")] * len(ids))


class Collector:
    """Plays episodes of one environment with an engine; `tokenizer` is the engine's model's."""

    def __init__(
        self, env: EnvSpec, engine: Engine, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, limits: Limits
    ):
        self.env = env
        self.engine = engine
        self.sampling = sampling
        self.limits = limits
        self.dialogues = Dialogues(tokenizer)
        self._seconds = {"generate": 0.0, "environment": 0.0}

    def collect(
        self,
        episodes: Sequence[Episode],
        guide: Guide | None = None,
        on_finish: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """Play `episodes` and return their trajectories in the same order."""
        finished: dict[int, Trajectory] = {}
        waiting = list(episodes)
        for attempt in range(self.limits.retries + 1):
            failed: list[Episode] = []
            for start in range(0, len(waiting), self.limits.parallel):
                for trajectory in self._play(waiting[start : start + self.limits.parallel], guide):
                    if trajectory.error is not None and attempt < self.limits.retries:
                        failed.append(Episode(trajectory.seed, trajectory.id))
                        continue
                    finished[trajectory.id] = trajectory
                    if on_finish is not None:
                        on_finish(trajectory)
            waiting = failed
        return [finished[e.key] for e in episodes]

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent in the engine (`generate`) and in environments (`environment`) since this was last asked."""
        seconds, self._seconds = self._seconds, {"generate": 0.0, "environment": 0.0}
        return seconds

    def _play(self, episodes: Sequence[Episode], guide: Guide | None) -> list[Trajectory]:
        done: list[Trajectory] = []
        live: list[_Live] = []
        for episode in episodes:
            opened = self._open(episode)
            if isinstance(opened, Trajectory):
                done.append(opened)
            else:
                live.append(opened)
        while live:
            staying: list[_Live] = []
            ended: list[int] = []
            for run, completion, author in self._act(live, guide):
                finished = self._step(run, completion, author)
                if finished is None:
                    staying.append(run)
                else:
                    run.env.close()
                    done.append(finished)
                    ended.append(run.episode.key)
            if ended:
                self.engine.release(ended)
                if guide is not None:
                    guide.engine.release(ended)
            live = staying
        return done

    def _open(self, episode: Episode) -> _Live | Trajectory:
        clock = time.perf_counter()
        env: AgentEnv | None = None
        try:
            env = make(self.env)
            observation = env.reset(episode.seed)
        except EnvironmentFailure as failure:
            if env is not None:
                env.close()
            blank = _Live(episode, None, None, "", clock, [], [])  # type: ignore[arg-type]
            return self._finish(blank, Outcome.ERROR, "", failure)
        finally:
            self._seconds["environment"] += time.perf_counter() - clock
        dialogue = self.dialogues(env.instructions, env.tools)
        run = _Live(episode, env, dialogue, observation, clock, [], [])
        run.extend(dialogue.start(observation))
        if len(run.tokens) + self.sampling.max_new_tokens > self.limits.max_tokens:
            env.close()
            return self._finish(run, Outcome.MAX_TOKENS, observation)
        return run

    def _act(self, live: Sequence[_Live], guide: Guide | None) -> list[tuple[_Live, Completion, str]]:
        """One action for every live episode, by the student or, in its first turns, by the guiding teacher."""
        guided = [guide is not None and len(run.turns) < guide.turns for run in live]
        answers: dict[int, tuple[Completion, str]] = {}
        for by_teacher, engine, author, stream in (
            (False, self.engine, "student", 0),
            (True, guide.engine if guide else self.engine, "teacher", TEACHER_STREAM),
        ):
            runs = [run for run, is_guided in zip(live, guided, strict=True) if is_guided is by_teacher]
            if not runs:
                continue
            slot = id(engine)
            requests = [
                Request(run.episode.key, run.tokens[run.fed.get(slot, 0) :], run.episode.key + stream) for run in runs
            ]
            clock = time.perf_counter()
            completions = engine.generate(requests, self.sampling)
            self._seconds["generate"] += time.perf_counter() - clock
            for run, completion in zip(runs, completions, strict=True):
                answers[run.episode.key] = (completion, author)
                run.fed[slot] = len(run.tokens) + len(completion.tokens)
        return [(run, *answers[run.episode.key]) for run in live]

    def _step(self, run: _Live, completion: Completion, author: str) -> Trajectory | None:
        """Write the action down and step the environment; the trajectory if the episode is over."""
        text = run.dialogue.text(completion.tokens)
        span = (len(run.tokens), len(run.tokens) + len(completion.tokens))
        turn = Turn((run.prompt_start, span[0]), span, author, completion.stop, run.observation, text)
        turn.calls = [{"name": c.name, "arguments": c.arguments} for c in parse_calls(text) if isinstance(c, Call)]
        run.tokens.extend(completion.tokens)
        # Only the student's own log-probabilities are the student's; a guiding teacher's are scored like everything
        # else.
        own = author == "student"
        run.logprobs.extend(completion.logprobs if own else [float("nan")] * len(completion.logprobs))
        run.prompt_start = span[1]
        run.turns.append(turn)
        clock = time.perf_counter()
        try:
            step = run.env.step(text)
        except EnvironmentFailure as failure:
            turn.ok = False
            return self._finish(run, Outcome.ERROR, "", failure)
        finally:
            self._seconds["environment"] += time.perf_counter() - clock
        turn.reward, turn.ok = step.reward, step.ok
        run.reward += step.reward
        run.success = step.success
        outcome = None
        if step.terminated:
            outcome = Outcome.TERMINATED
        elif step.truncated:
            outcome = Outcome.TRUNCATED
        elif len(run.turns) >= self.limits.max_turns:
            outcome = Outcome.MAX_TURNS
        elif time.perf_counter() - run.started > self.limits.episode_seconds:
            outcome = Outcome.TIMEOUT
        if outcome is not None:
            return self._finish(run, outcome, step.observation)
        following = run.dialogue.observe(step.observation, ended=completion.stop == "end")
        if len(run.tokens) + len(following) + self.sampling.max_new_tokens > self.limits.max_tokens:
            return self._finish(run, Outcome.MAX_TOKENS, step.observation)
        run.extend(following)
        run.observation = step.observation
        return None

    def _finish(
        self, run: _Live, outcome: Outcome, observation: str, failure: EnvironmentFailure | None = None
    ) -> Trajectory:
        return Trajectory(
            id=run.episode.key,
            env_id=self.env.id,
            env_kwargs=dict(self.env.kwargs),
            seed=run.episode.seed,
            tokens=np.array(run.tokens, dtype=np.int32),
            logprobs=np.array(run.logprobs, dtype=np.float32),
            turns=run.turns,
            outcome=outcome,
            success=None if failure else bool(run.success),
            reward=run.reward,
            final_observation=observation,
            policy_version=self.engine.version,
            error=None if failure is None else {"kind": failure.kind, "message": failure.message},
        )
