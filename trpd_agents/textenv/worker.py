"""What a worker process does: it plays the episodes that its parent tells it to, many at once, one call at a time.

Invariant: it lives no longer than its parent, nothing an environment prints reaches the parent's output, and after a
call that was interrupted or ran out of memory no other call follows: whatever was left half done dies with the process.

Commands arrive as one list and are answered by one list. Before every call into an environment the worker writes into
memory that it shares with its parent which command it is at, so the parent knows whom to blame if no answer comes. It
is light to start on purpose: neither torch nor a tokenizer is imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import gymnasium

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.agent_env import Step
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.episode_env import Opening, Stage
from trpd_agents.textenv.spec import EnvSpec

HEAD = mmap.PAGESIZE  # bytes of the shared file that are `Status`; after them comes what faulthandler writes
NOBODY = -1
_PR_SET_PDEATHSIG = 1
_TO_SAY_GOODBYE = 2.0  # seconds a worker has to end by itself when its parent has gone


@dataclass(frozen=True)
class Settings:
    """What a worker is told first. `parent` is a process id; `bound` says whether to die with the parent's thread."""

    path: list[str]
    seconds: float
    memory_mb: int | None
    parent: int
    bound: bool


@dataclass(frozen=True)
class Start:
    """How to begin an episode that this worker does not have; what was observed so far in one that another had."""

    spec: EnvSpec
    seed: int
    registration: bytes | None  # of an id that only the parent knows, pickled
    opening: str | None = None
    history: Sequence[tuple[str, str]] = ()  # actions, and what was observed after each


# What to do in an episode: `number` is the parent's name for it. ("open", None), ("step", action), ("ask", method) are
# answered, ("close", None) is not.
Command = tuple[int, Start | None, tuple[Literal["open", "step", "ask", "close"], str | None]]
# number, "open" | "step" | "ask" | "failure" | "error", and what belongs to it
Reply = tuple[int, str, Any]


class Status:
    """Where a worker is, in the first page of the shared file: written by the worker, read by its parent."""

    def __init__(self, descriptor: int):
        self._cells = memoryview(mmap.mmap(descriptor, HEAD)).cast("q")

    def enter(self, command: int) -> None:
        """The worker is at this command of its list now."""
        self._cells[0] = command
        self.tick()

    def tick(self, constructing: bool = False) -> None:
        """Another call begins, whose time limit starts now."""
        self._cells[2] = constructing
        self._cells[1] += 1

    @property
    def command(self) -> int:
        return self._cells[0]

    @property
    def ticks(self) -> int:
        return self._cells[1]

    @property
    def constructing(self) -> bool:
        return bool(self._cells[2])


def main() -> None:
    """Entry point of the process; its arguments are the descriptors of the connection and of the shared file."""
    connection, shared = Connection(int(sys.argv[1])), int(sys.argv[2])
    settings: Settings = connection.recv()
    _settle_in(settings, connection, shared)
    connection.send_bytes(b"ready")
    worker = Worker(settings, Status(shared))
    try:
        while True:
            replies, over = worker.serve(pickle.loads(connection.recv_bytes()))
            connection.send_bytes(pickle.dumps((replies, over), pickle.HIGHEST_PROTOCOL))
            if over:
                os._exit(0)  # threads and exit handlers of a broken environment are not waited for
    except (EOFError, ConnectionError):
        worker.close()


class Worker:
    """The episodes of one process."""

    def __init__(self, settings: Settings, status: Status):
        self._settings, self._status = settings, status
        self._stages: dict[int, Stage] = {}

    def serve(self, commands: Sequence[Command]) -> tuple[list[Reply], bool]:
        """Replies to `commands`; True if this process must not be used any more, and those left were not looked at."""
        replies: list[Reply] = []
        over = False
        for at, (number, start, what) in enumerate(commands):
            self._status.enter(at)
            try:
                reply = self._do(number, start, *what)
            except EnvironmentFailure as failure:
                message, out_of_memory = failure.message, isinstance(failure.__cause__, MemoryError)
                if out_of_memory and self._settings.memory_mb is not None:
                    message += f"; its worker process may use {self._settings.memory_mb} MB (env.memory_mb)"
                reply = ("failure", (failure.kind, message))
                over = failure.kind == "timeout" or out_of_memory
            except UserError as error:
                reply = ("error", str(error))
            except BaseException as error:  # KeyboardInterrupt, raised by an environment, is its fault as well
                where = "step_raised" if start is None else "reset_raised"
                reply = ("failure", (where, f"environment raised {blame(error)}"))
                over = True
            if reply is not None:
                replies.append((number, *reply))
            if over:
                break
        self._status.enter(NOBODY)
        return replies, over

    def close(self) -> None:
        for stage in self._stages.values():
            stage.close()

    def _do(self, number: int, start: Start | None, what: str, text: str | None) -> tuple[str, Any] | None:
        if what == "close":
            if (stage := self._stages.pop(number, None)) is not None:
                stage.close()
            return None
        opening = None if start is None else self._begin(number, start)
        stage = self._stages[number]
        if what == "open":
            assert opening is not None
            return "open", _packed(opening)
        assert text is not None
        self._status.tick()
        if what == "step":
            return "step", _plain(stage.step(text))
        found = stage.ask(text)
        return "ask", [str.__str__(one) for one in found] if isinstance(found, list) else found

    def _begin(self, number: int, start: Start) -> Opening:
        self._status.tick(constructing=True)
        if start.registration is not None and start.spec.id not in gymnasium.registry:
            gymnasium.registry[start.spec.id] = _registration(start)
        stage = self._stages[number] = Stage(start.spec, start.seed, self._settings.seconds)
        self._status.tick()
        if start.opening is None:
            return stage.open()
        return stage.restore(start.opening, start.history, self._status.tick)


def _registration(start: Start) -> Any:
    assert start.registration is not None
    try:
        return pickle.loads(start.registration)
    except Exception as error:
        raise UserError(
            f"environment {start.spec.id!r} is registered where the run was started, and a worker process cannot find "
            f"what it was registered with: {blame(error)}; name it 'module:Id-v0', or set env.workers to 0"
        ) from error


def _plain(step: Step) -> tuple[Any, ...]:
    """As a tuple, which is quicker to send, of nothing but Python's own types."""
    told = str.__str__(step.observation), step.reward, step.terminated, step.truncated, step.ok, step.success
    return *told, step.draw, step.seat, step.endings


def _packed(opening: Opening) -> tuple[Any, ...]:
    try:
        tools = json.dumps(opening.tools)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"an environment's `tools` are JSON-schema descriptions; found what is no JSON: {error}"
        ) from None
    hint = None if opening.hint is None else str.__str__(opening.hint)
    texts = str.__str__(opening.observation), str.__str__(opening.instructions), tools
    return (*texts, hint, opening.max_turns, opening.has_expert, opening.has_legal_actions, opening.seat)


def unpacked(packed: Sequence[Any]) -> Opening:
    """The `Opening` that a worker has sent."""
    observation, instructions, tools, *rest = packed
    return Opening(observation, instructions, json.loads(tools), *rest)


def _settle_in(settings: Settings, connection: Connection, shared: int) -> None:
    _die_with(settings, connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.dup2(2, 1)  # what is printed must not end up among the results of a command
    sys.path[:] = settings.path
    faulthandler.enable(file=shared)
    faulthandler.register(signal.SIGUSR1, file=shared)
    _limit("RLIMIT_CORE", 0)
    if settings.memory_mb is not None:
        _limit("RLIMIT_DATA", settings.memory_mb << 20)


def _limit(name: str, value: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(getattr(resource, name), (value, value))


def _die_with(settings: Settings, connection: Connection) -> None:
    """End when the parent does, however it ends, and whatever this process is doing."""
    if settings.bound and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != settings.parent:
            os._exit(1)
    descriptor = os.dup(connection.fileno())
    threading.Thread(target=_watch, args=(descriptor, os._exit), daemon=True, name="watch-parent").start()


def _watch(descriptor: int, end: Callable[[int], Any]) -> None:
    """Wait until nobody holds the other end of a connection."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    time.sleep(_TO_SAY_GOODBYE)
    end(1)
