"""Environments in worker processes: a pool whose episodes cannot harm the process that trains.

Invariant: an episode is restored in a new worker, by its seed and its actions, when another one took its worker down;
only the one that did has failed. A worker that hangs keeps the episodes it holds waiting, and no others.

Every worker gets all that is asked of its episodes in one message, and answers with one. What an episode needs is kept
here, so a worker can be lost at any time: its episodes begin again elsewhere with the next thing that is asked of them.
"""

from __future__ import annotations

import contextlib
import itertools
from multiprocessing.connection import wait
from typing import Any, Literal

from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.textenv.agent_env import Step
from trpd_agents.textenv.episode_env import NOT_RESTORED
from trpd_agents.textenv.mixture import drawn
from trpd_agents.textenv.pool import STEP_SECONDS, Answer, EnvPool, EpisodeEnv
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.worker import NOBODY
from trpd_agents.textenv.worker_messages import Command, Start, registration_of, unpack_opening, unpack_step
from trpd_agents.textenv.worker_process import WorkerProcess

MEMORY_MB = 4096
_POLL = 0.05  # seconds between two looks at whether silent workers make progress
_LOSSES = 3  # times that an episode may lose its worker with nobody to blame for it
_FALSE_STARTS = 2  # workers in a row that die before they can do anything


class Workers(EnvPool):
    """At most `count` processes, started when they are needed.

    Args:
        seconds: for one reset or step.
        memory_mb: that the data of one worker may take, in MiB; None for no limit. Enforced on Linux.
    """

    def __init__(self, count: int, seconds: float = STEP_SECONDS, memory_mb: int | None = MEMORY_MB):
        self.patience = min(2.0, seconds / 2)  # how long a call may take before rounds go on without it
        self._desks = [_Desk(seconds, memory_mb) for _ in range(count)]
        self._names = itertools.count()
        self._asked = itertools.count()
        self._answers: list[tuple[int, Answer]] = []
        self._error: UserError | None = None
        self._false_starts = 0

    def open(self, spec: EnvSpec, seed: int) -> EpisodeEnv:
        # Where nothing hangs, with the fewest others, and rather in a process that there is already.
        desk = min(self._desks, key=lambda d: (d.stalled(self.patience), len(d.episodes), d.process is None))
        env = _There(self, desk, next(self._names), drawn(spec, seed), seed)
        desk.episodes[env.name] = env
        self._ask(env, ("open", None))
        return env

    def step(self, env: EpisodeEnv, action: str) -> None:
        assert isinstance(env, _There)
        self._ask(env, ("step", action))

    def wait(self, block: bool = True) -> list[Answer]:
        while self._error is None and (owing := [desk for desk in self._desks if desk.owes]):
            if all(desk.stalled(self.patience) for desk in owing) and (self._answers or not block):
                break
            self.pump(_POLL)
        if self._error is not None:
            raise self._error
        answers, self._answers = self._answers, []
        return [answer for _, answer in sorted(answers, key=lambda entry: entry[0])]

    def ask(self, env: _There, method: str) -> Any:
        self._ask(env, ("ask", method))
        while env.pending is not None:
            self.pump(_POLL)
        if isinstance(env.found, EnvironmentFailure):
            raise env.found
        return env.found

    def abandon(self) -> None:
        self._answers, self._error = [], None
        for desk in self._desks:
            desk.due = []
            if desk.busy:
                desk.bury()
            for env in list(desk.episodes.values()):
                env.close()

    def close(self) -> None:
        self.abandon()
        processes = [desk.process for desk in self._desks if desk.process is not None]
        for process in processes:
            process.leave()
        for process in processes:
            process.gone(seconds=1.0)
        for desk in self._desks:
            desk.bury()

    def pump(self, seconds: float = 0.0) -> None:
        """Give idle workers what is due, wait so long for an answer, and take in all that have come."""
        for desk in self._desks:
            if desk.due and not desk.busy:
                try:
                    desk.send()
                except OSError as error:
                    if desk.process is None:
                        raise RunError(f"worker processes for environments cannot be started: {error}") from error
                    self._lost(desk)
        silent: dict[Any, _Desk] = {d.process.connection: d for d in self._desks if d.process is not None and d.busy}
        for connection in wait(list(silent), seconds) if silent else ():
            self._take(silent.pop(connection))
        for desk in silent.values():
            if desk.process is not None and desk.process.overdue:
                self._lost(desk, overdue=True)

    def _ask(self, env: _There, what: Asked) -> None:
        env.asked = next(self._asked)
        if env.failure is not None:
            self._answers.append((env.asked, (env, env.failure)))
            return
        env.pending, env.found = what, None
        env.desk.due.append(env)

    def _take(self, desk: _Desk) -> None:
        assert desk.process is not None
        try:
            replies, over = desk.process.receive()
        except (EOFError, OSError):
            self._lost(desk)
            return
        self._false_starts = 0
        for name, kind, found in replies:
            self._take_in(desk.episodes[name], kind, found)
        if over:
            desk.bury()
        desk.finish_batch()

    def _take_in(self, env: _There, kind: str, found: Any) -> None:
        if kind == "error":
            self._error = UserError(found)
            env.pending = None
        elif kind == "failure":
            self._fail(env, EnvironmentFailure(*found))
        elif kind == "ask":
            env.present, env.pending, env.found = True, None, found
        else:
            answer = unpack_opening(found) if kind == "open" else unpack_step(found)
            if isinstance(answer, Step):
                assert env.pending is not None
                env.history.append((env.pending[1] or "", answer.observation))
            else:
                env.begin(answer)
            env.present, env.pending = True, None
            self._answers.append((env.asked, (env, answer)))

    def _fail(self, env: _There, failure: EnvironmentFailure) -> None:
        asked, env.pending = env.pending, None
        if asked is not None and asked[0] == "ask":
            env.found = failure
        else:
            self._answers.append((env.asked, (env, failure)))

    def _lost(self, desk: _Desk, overdue: bool = False) -> None:
        """A worker is dead, or has to be: the episode it was at has failed, the others go on in the next one."""
        assert desk.process is not None
        starting, guilty = desk.process.starting, desk.current
        how, where = desk.bury(ask_where=overdue)
        if starting:
            self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                raise RunError(
                    f"worker processes for environments cannot be started: {self._false_starts} in a row {how} before "
                    "they were ready; see what they printed, and raise env.memory_mb if they run out of memory"
                )
        if guilty is not None and guilty.pending is not None:
            self._fail(guilty, guilty.obituary(how, where, desk.seconds if overdue else None))
        elif not starting:
            for env in desk.batch:
                if env is not None and env.pending is not None and not env.survives():
                    message = f"environment {env.spec.id}: its worker process {how} time after time"
                    self._fail(env, EnvironmentFailure(NOT_RESTORED, message))
        desk.finish_batch()


Asked = tuple[Literal["open", "step", "ask"], str | None]


class _There(EpisodeEnv):
    """An episode in a worker, with all that is needed to begin it anew in another one."""

    def __init__(self, pool: Workers, desk: _Desk, name: int, spec: EnvSpec, seed: int):
        super().__init__(spec, seed)
        self._pool, self.desk, self.name = pool, desk, name
        self.history: list[tuple[str, str]] = []
        self.present = False  # whether the worker that there is now has it
        self.pending: Asked | None = None
        self.asked = 0  # the order of what was asked
        self.found: Any = None  # what `ask` waits for
        self._losses = 0

    @property
    def command(self) -> Command:
        assert self.pending is not None
        if self.present:
            return self.name, None, self.pending
        begun = self.pending[0] != "open"
        opening, registration = self.opening if begun else None, registration_of(self.spec)
        return self.name, Start(self.spec, self.seed, registration, opening, self.history), self.pending

    def survives(self) -> bool:
        """Whether to try again after the worker was lost and nobody was to blame."""
        self._losses += 1
        return self._losses <= _LOSSES

    def obituary(self, how: str, where: str, seconds: float | None) -> EnvironmentFailure:
        """The failure of this episode, in which its worker died, or was killed after so many `seconds`."""
        assert self.pending is not None
        kind, text = self.pending
        what = f"{text}()" if kind == "ask" else "step" if kind == "step" else f"reset(seed={self.seed})"
        place = f" ({where})" if where else ""
        if seconds is None:
            return EnvironmentFailure("worker_died", f"environment {self.spec.id}: its process {how} in {what}{place}")
        message = f"{what} took more than {seconds:g} s and could not be interrupted{place}; its process was killed"
        return EnvironmentFailure("timeout", f"environment {self.spec.id}: {message}")

    def close(self) -> None:
        self.pending = None
        self.desk.dismiss(self)

    def _answer(self, method: str) -> Any:
        return self._pool.ask(self, method)


class _Desk:
    """A place for one worker process at a time, and the episodes that belong there."""

    def __init__(self, seconds: float, memory_mb: int | None):
        self.seconds, self._memory_mb = seconds, memory_mb
        self.process: WorkerProcess | None = None
        self.episodes: dict[int, _There] = {}
        self.due: list[_There] = []  # something was asked of them that is not sent yet
        self.batch: list[_There | None] = []  # whom each command is about that the worker is at; None for a closing
        self.busy = False
        self._closing: list[int] = []

    @property
    def owes(self) -> bool:
        """Whether there is an answer to come."""
        return bool(self.due) or any(env is not None and env.pending is not None for env in self.batch)

    @property
    def current(self) -> _There | None:
        """The episode whose environment the worker is in."""
        at = NOBODY if self.process is None else self.process.status.command
        return self.batch[at] if 0 <= at < len(self.batch) else None

    def stalled(self, patience: float) -> bool:
        """Whether the worker has been in one call for so many seconds; five times as many while it makes something."""
        if self.process is None or self.process.starting or not self.busy:
            return False
        return self.process.waiting() > patience * (5 if self.process.status.constructing else 1)

    def send(self) -> None:
        """Give the worker everything that is due; a worker that there is not yet is started first."""
        self.busy = True
        if self.process is None:
            self.process = WorkerProcess(self.seconds, self._memory_mb)
            return
        commands: list[Command] = [(name, None, ("close", None)) for name in self._closing]
        self.batch = [*(None for _ in commands), *self.due]
        commands += [env.command for env in self.due]
        self.due, self._closing = [], []
        self.process.send(commands)

    def finish_batch(self) -> None:
        """What the worker has not answered in its last message it never will."""
        self.due = [env for env in self.batch if env is not None and env.pending is not None] + self.due
        self.batch, self.busy = [], False

    def dismiss(self, env: _There) -> None:
        """The episode is over. The worker is told with the next message, or now if nothing keeps it."""
        if self.episodes.pop(env.name, None) is None:
            return
        self.due = [other for other in self.due if other is not env]
        if self.process is not None:
            self._closing.append(env.name)
            if not self.episodes and not self.busy:
                with contextlib.suppress(OSError):  # that it is dead is found out when it is needed
                    self.send()

    def bury(self, ask_where: bool = False) -> tuple[str, str]:
        """End the worker; its episodes need another one. How it ended, and where in the user's code it was."""
        process, self.process, self.busy, self._closing = self.process, None, False, []
        for env in self.episodes.values():
            env.present = False
        return ("ended", "") if process is None else process.kill(ask_where)
