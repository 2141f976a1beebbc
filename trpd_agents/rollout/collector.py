"""The collector: drives many episodes at once, and writes down token by token what happened.

Each round asks the engine for one action of every live episode, steps the environments, and feeds the observations
back. An episode that ends makes room for the next one at once, so that long ones do not keep the rest waiting. Its
tokens are only ever appended to. A fault of the environment is not the policy's failure: the episode is played again
from the start with a fresh environment, and if that fails too it is recorded with its error and no success.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Engine, Sampling
from trpd_agents.rollout.guide import Guide
from trpd_agents.rollout.live import Episode, Live
from trpd_agents.textenv import AgentEnv, EnvSpec, make
from trpd_agents.trajectory import Outcome, Stop, Trajectory

TEACHER_STREAM = 1 << 40  # keeps a guiding teacher's draws apart from the student's for the same episode


@dataclass(frozen=True)
class Limits:
    """Where an episode ends if the environment does not end it."""

    max_turns: int
    max_tokens: int = 4096  # of the whole conversation
    episode_seconds: float = 600.0
    parallel: int = 256  # episodes at once
    retries: int = 1  # fresh starts after an environment failure


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
        self._steps = 0

    def collect(
        self,
        episodes: Sequence[Episode],
        guide: Guide | None = None,
        on_finish: Callable[[Trajectory], None] | None = None,
        max_turns: int | None = None,
    ) -> list[Trajectory]:
        """Play `episodes` and return their trajectories in the same order.

        Args:
            guide: a teacher that plays some of the turns.
            on_finish: called with each trajectory as it ends.
            max_turns: a lower limit than that of `limits`, for these episodes.
        """
        limit = self.limits.max_turns if max_turns is None else min(max_turns, self.limits.max_turns)
        finished: dict[int, Trajectory] = {}
        waiting = deque(episodes)
        failures = Counter[int]()
        live: list[Live] = []
        while waiting or live:
            while waiting and len(live) < self.limits.parallel:
                opened = self._open(waiting.popleft())
                if isinstance(opened, Live):
                    live.append(opened)
                else:
                    self._settle(opened, finished, failures, waiting, on_finish)
            staying: list[Live] = []
            for run, trajectory in self._round(live, guide, limit):
                if trajectory is None:
                    staying.append(run)
                else:
                    self._settle(trajectory, finished, failures, waiting, on_finish)
            live = staying
        return [finished[e.key] for e in episodes]

    def _settle(
        self,
        trajectory: Trajectory,
        finished: dict[int, Trajectory],
        failures: Counter[int],
        waiting: deque[Episode],
        on_finish: Callable[[Trajectory], None] | None,
    ) -> None:
        """Keep what has ended, or put it at the end of the queue again if its environment failed."""
        if trajectory.error is not None and failures[trajectory.id] < self.limits.retries:
            failures[trajectory.id] += 1
            waiting.append(Episode(trajectory.seed, trajectory.id))
            return
        finished[trajectory.id] = trajectory
        if on_finish is not None:
            on_finish(trajectory)

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent in engines (`generate`) and in environments (`environment`) since this was last asked."""
        seconds, self._seconds = self._seconds, {"generate": 0.0, "environment": 0.0}
        return seconds

    def take_steps(self) -> int:
        """Actions given to environments since this was last asked, those of attempts that failed included."""
        steps, self._steps = self._steps, 0
        return steps

    def _round(self, live: Sequence[Live], guide: Guide | None, max_turns: int) -> list[tuple[Live, Trajectory | None]]:
        """One turn of every live episode; with the trajectory of each that is over then."""
        if not live:
            return []
        self._act(live, guide)
        results = [(run, self._step(run, max_turns)) for run in live]
        ended = [run.episode.key for run, trajectory in results if trajectory is not None]
        for run, trajectory in results:
            if trajectory is not None:
                run.env.close()
        if ended:
            self.engine.release(ended)
        if guide is not None:
            guide.release(ended)
            staying = [run for run, trajectory in results if trajectory is None]
            with self._timed("generate"):
                guide.review([run for run in staying if run.turns[-1].author == "student"])
        return results

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        clock = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - clock

    def _open(self, episode: Episode) -> Live | Trajectory:
        clock = time.perf_counter()
        env: AgentEnv | None = None
        try:
            env = make(self.env)
            observation = env.reset(episode.seed)
        except EnvironmentFailure as failure:
            if env is not None:
                env.close()
            blank = Live(episode, None, None, "")  # type: ignore[arg-type]
            return self._finish(blank, Outcome.ERROR, "", failure)
        finally:
            self._seconds["environment"] += time.perf_counter() - clock
        dialogue = self.dialogues(env.instructions, env.tools)
        run = Live(episode, env, dialogue, observation, started=clock)
        run.extend(dialogue.start(observation))
        if len(run.tokens) + self.sampling.max_new_tokens > self.limits.max_tokens:
            env.close()
            return self._finish(run, Outcome.MAX_TOKENS, observation)
        return run

    def _act(self, live: Sequence[Live], guide: Guide | None) -> None:
        """One action more for every live episode, by the student or by the guiding teacher."""
        if guide is not None:
            with self._timed("generate"):
                guide.read(self.engine, live)
        led = {r.episode.key for r in live if guide is not None and guide.leads(r.episode.key, len(r.turns))}
        self._generate([run for run in live if run.episode.key not in led], self.engine, "student", 0)
        if guide is not None:
            self._generate([run for run in live if run.episode.key in led], guide.engine, "teacher", TEACHER_STREAM)

    def _generate(self, runs: Sequence[Live], engine: Engine, author: str, stream: int) -> None:
        if not runs:
            return
        with self._timed("generate"):
            completions = engine.generate([run.request(engine, stream) for run in runs], self.sampling)
        for run, completion in zip(runs, completions, strict=True):
            run.act(engine, completion, author)

    def _step(self, run: Live, max_turns: int) -> Trajectory | None:
        """Give the last action to the environment; the trajectory if the episode is over."""
        turn = run.turns[-1]
        clock = time.perf_counter()
        self._steps += 1
        try:
            step = run.env.step(turn.text)
        except EnvironmentFailure as failure:
            turn.ok = False
            return self._finish(run, Outcome.ERROR, "", failure)
        finally:
            self._seconds["environment"] += time.perf_counter() - clock
        run.advance(step)
        outcome = None
        if step.terminated:
            outcome = Outcome.TERMINATED
        elif step.truncated:
            outcome = Outcome.TRUNCATED
        elif len(run.turns) >= max_turns:
            outcome = Outcome.MAX_TURNS
        elif time.perf_counter() - run.started > self.limits.episode_seconds:
            outcome = Outcome.TIMEOUT
        if outcome is not None:
            return self._finish(run, outcome, step.observation)
        following = run.dialogue.observe(step.observation, ended=turn.stop is Stop.END)
        if len(run.tokens) + len(following) + self.sampling.max_new_tokens > self.limits.max_tokens:
            return self._finish(run, Outcome.MAX_TOKENS, step.observation)
        run.extend(following)
        run.observation = step.observation
        return None

    def _finish(
        self, run: Live, outcome: Outcome, observation: str, failure: EnvironmentFailure | None = None
    ) -> Trajectory:
        return run.finish(self.env, self.engine.version, outcome, observation, failure)
