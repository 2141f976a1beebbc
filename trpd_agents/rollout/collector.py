"""The collector: drives many episodes at once, and writes down token by token what happened.

Each round asks the engine for one action of every live episode, gives them to the environments, and feeds the
observations back. An episode that ends makes room for the next one at once, so that long ones do not keep the rest
waiting; one whose environment takes long to answer is left out of rounds until it does. Its tokens are only ever
appended to. A fault of the environment is not the policy's failure: the episode is played again from the start with a
fresh environment, and if that fails too it is recorded with its error and no success.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trpd_agents.errors import EnvironmentFailure
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Engine, Sampling
from trpd_agents.rollout.guide import Guide
from trpd_agents.rollout.live import Episode, Live, Player
from trpd_agents.rollout.seats import Players, conclude, take_seats
from trpd_agents.textenv import EnvSpec, Step
from trpd_agents.textenv.agent_env import Ending
from trpd_agents.textenv.episode_env import NOT_RESTORED, Opening
from trpd_agents.textenv.pool import EnvPool, EpisodeEnv, InProcess
from trpd_agents.trajectory import Outcome, Stop, Trajectory

TEACHER_STREAM = 1 << 40  # keeps a guiding teacher's draws apart from the student's for the same episode
LOSSES = 3  # fresh starts after other episodes took the environment's process down, and it could not be restored


@dataclass(frozen=True)
class Limits:
    """Where an episode ends if the environment does not end it."""

    max_turns: int
    max_tokens: int = 4096  # of the whole conversation
    episode_seconds: float = 600.0
    parallel: int = 256  # episodes at once
    retries: int = 1  # fresh starts after an environment failure


class Schedule:
    """Which episodes wait for their turn, and what has become of the others."""

    def __init__(self, episodes: Sequence[Episode], retries: int, on_finish: Callable[[Trajectory], None] | None):
        self.waiting = deque(episodes)
        self.finished: dict[int, list[Trajectory]] = {}  # by episode; of a match that the agent plays alone two
        self._on_finish = on_finish
        self._allowed = {"own": retries, "other": LOSSES}
        self._failures = Counter[tuple[int, str]]()  # by episode, and whether its own environment was to blame

    def take(self, count: int) -> list[Episode]:
        """The next ones, at most `count`."""
        return [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]

    def settle(self, trajectory: Trajectory, *others: Trajectory) -> None:
        """Keep what has ended, or put it at the end of the queue again if its environment failed."""
        if trajectory.error is not None:
            blame = "other" if trajectory.error["kind"] == NOT_RESTORED else "own"
            if self._failures[trajectory.id, blame] < self._allowed[blame]:
                self._failures[trajectory.id, blame] += 1
                self.waiting.append(Episode(trajectory.seed, trajectory.id))
                return
        self.finished[trajectory.id] = [trajectory, *others]
        if self._on_finish is not None:
            self._on_finish(trajectory)


class Collector:
    """Plays episodes of one environment with an engine; `tokenizer` is the engine's model's.

    `pool` makes and steps the environments, and outlives the collector; without one they are played in this process.
    """

    def __init__(
        self,
        env: EnvSpec,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        limits: Limits,
        pool: EnvPool | None = None,
    ):
        self.env = env
        self.engine = engine
        self.sampling = sampling
        self.limits = limits
        self.pool = InProcess() if pool is None else pool
        self.dialogues = Dialogues(tokenizer)
        self.players = Players(sampling)
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

        Where the agent plays against itself, the trajectory of an episode is that of the agent's seat, and is followed
        by that of the other seat, with an id of its own.

        Args:
            guide: a teacher that plays some of the turns.
            on_finish: called with each episode's trajectory as it ends.
            max_turns: a lower limit than that of `limits`, for these episodes.
        """
        limit = self.limits.max_turns if max_turns is None else min(max_turns, self.limits.max_turns)
        schedule = Schedule(episodes, self.limits.retries, on_finish)
        try:
            self._play(schedule, guide, limit)
        except BaseException:
            self.pool.abandon()  # what these episodes still ask of the pool must not be answered to the next ones
            raise
        return [trajectory for e in episodes for trajectory in schedule.finished[e.key]]

    def _play(self, schedule: Schedule, guide: Guide | None, max_turns: int) -> None:
        live: list[Live] = []  # in need of an action
        away: dict[EpisodeEnv, Live] = {}  # whose environment has not answered yet
        while schedule.waiting or live or away:
            while schedule.waiting and len(live) + len(away) < self.limits.parallel:
                for episode in schedule.take(self.limits.parallel - len(live) - len(away)):
                    run = Live(episode, self._open(episode.seed))
                    away[run.env] = run
                live += self._receive(away, schedule, guide, max_turns, block=not live)
            self._act(live, guide)
            for run in live:
                self._step(run)
                away[run.env] = run
            live = self._receive(away, schedule, guide, max_turns)

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent in engines (`generate`) and in environments (`environment`) since this was last asked."""
        seconds, self._seconds = self._seconds, {"generate": 0.0, "environment": 0.0}
        return seconds

    def take_steps(self) -> int:
        """Actions given to environments since this was last asked: those of attempts that failed are included, those of
        opponents are not."""
        steps, self._steps = self._steps, 0
        return steps

    def _open(self, seed: int) -> EpisodeEnv:
        with self._timed("environment"):
            return self.pool.open(self.env, seed)

    def _step(self, run: Live) -> None:
        """Give the last action to the environment."""
        self._steps += run.player is None
        with self._timed("environment"):
            self.pool.step(run.env, run.turns[-1].text)

    def _receive(
        self,
        away: dict[EpisodeEnv, Live],
        schedule: Schedule,
        guide: Guide | None,
        max_turns: int,
        block: bool = True,
    ) -> list[Live]:
        """Take in what environments have answered; the episodes that need an action now. The others have ended."""
        with self._timed("environment"):
            answers = self.pool.wait(block)
        going: list[Live] = []
        acted: list[Live] = []  # the same, but in a match whoever has just played
        ended: list[Live] = []
        for env, answer in answers:
            run = away.pop(env)
            following = self._take_in(run, answer, max_turns)
            if isinstance(following, Live):
                going.append(following)
                acted.append(run)
                continue
            ended += run.seats.values() or [run]
            env.close()
            schedule.settle(*following)
        for run in ended:
            if run.player is not None and run.turns:
                run.player.engine.release([run.episode.key])
        played = [run.episode.key for run in ended if run.player is None and run.turns]
        if played:
            self.engine.release(played)
        if guide is not None:
            guide.release(played)
            with self._timed("generate"):
                guide.review([run for run in acted if run.turns and run.turns[-1].author == "student"])
        return going

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        clock = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - clock

    def _tell(self, run: Live, observation: str) -> bool:
        """Add what `run` observes to its conversation; whether its next action fits behind it."""
        begins = run.dialogue is None
        if run.dialogue is None:
            dialogues = self.dialogues if run.player is None else run.player.dialogues
            run.dialogue = dialogues(run.env.instructions, run.env.tools)
            tokens = run.dialogue.start(observation)
        else:
            tokens = run.dialogue.observe(observation, ended=run.turns[-1].stop is Stop.END)
        fits = len(run.tokens) + len(tokens) + self.sampling.max_new_tokens <= self.limits.max_tokens
        if fits or begins:
            run.extend(tokens)
            run.observation = observation
        return fits

    def _act(self, live: Sequence[Live], guide: Guide | None) -> None:
        """One action more for every live episode, by the student or by the guiding teacher."""
        own = [run for run in live if run.player is None]
        if guide is not None and own:
            with self._timed("generate"):
                guide.read(self.engine, own)
        led = {r.episode.key for r in own if guide is not None and guide.leads(r.episode.key, len(r.turns))}
        student = Player(self.engine, self.dialogues, self.sampling)
        self._generate([run for run in own if run.episode.key not in led], student, "student", 0)
        if guide is not None:
            teacher = Player(guide.engine, self.dialogues, self.sampling)
            self._generate([run for run in own if run.episode.key in led], teacher, "teacher", TEACHER_STREAM)
        opponents = defaultdict[Player, list[Live]](list)
        for run in live:
            if run.player is not None:
                opponents[run.player].append(run)
        for player, runs in opponents.items():
            self._generate(runs, player, "opponent", 0)

    def _generate(self, runs: Sequence[Live], player: Player, author: str, stream: int) -> None:
        if not runs:
            return
        engine = player.engine
        with self._timed("generate"):
            completions = engine.generate([run.request(engine, stream) for run in runs], player.sampling)
        for run, completion in zip(runs, completions, strict=True):
            run.act(engine, completion, author)

    def _take_in(
        self, run: Live, answer: Opening | Step | EnvironmentFailure, max_turns: int
    ) -> Live | list[Trajectory]:
        """What opening the episode or the last action led to: the conversation that needs an action now, which in a
        match is that of whoever's turn it is, or the trajectories of what is over."""
        if isinstance(answer, EnvironmentFailure):
            if run.turns:
                run.turns[-1].ok = False
            return self._finish(run, Outcome.ERROR, "", failure=answer)
        if isinstance(answer, Step):
            run.advance(answer)
            outcome = self._ending(run, answer, max_turns)
            if outcome is not None:
                return self._finish(run, outcome, answer.observation, answer.endings or ())
        elif answer.seat is not None:
            take_seats(run, self.players)
        following = run.at(answer.seat)
        if self._tell(following, answer.observation):
            return following
        return self._finish(following, Outcome.MAX_TOKENS, answer.observation)

    def _ending(self, run: Live, step: Step, max_turns: int) -> Outcome | None:
        """Why the episode is over after this step, if it is."""
        if step.terminated:
            return Outcome.TERMINATED
        if step.truncated:
            return Outcome.TRUNCATED
        if len(run.at(step.seat).turns) >= max_turns:
            return Outcome.MAX_TURNS
        if time.perf_counter() - run.started > self.limits.episode_seconds:
            return Outcome.TIMEOUT
        return None

    def _finish(
        self,
        run: Live,
        outcome: Outcome,
        observation: str,
        endings: Sequence[Ending] = (),
        failure: EnvironmentFailure | None = None,
    ) -> list[Trajectory]:
        """What the student has played of the episode that ended with `observation` for `run` and with `endings` for the
        seats of a match; first that of the agent's seat, which stands for the episode if the environment failed."""
        conclude(run, endings)
        told = {id(run.at(seat)): text for seat, (text, *_) in enumerate(endings)} | {id(run): observation}
        played = sorted(run.seats.values() or [run], key=lambda one: one.episode.key)
        trajectories = []
        for one in played:
            if one is played[0] or (one.player is None and failure is None):
                if one.dialogue is None and failure is None:
                    self._tell(one, told.get(id(one), ""))  # over before its first turn
                last = told.get(id(one), "")
                trajectories.append(one.finish(self.engine.version, outcome, last, failure))
        return trajectories
