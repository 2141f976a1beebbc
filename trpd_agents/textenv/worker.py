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
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.episode_env import Opening, Stage
from trpd_agents.textenv.worker_messages import (
    Command,
    Reply,
    Settings,
    Start,
    pack,
    pack_opening,
    pack_step,
    register,
    unpack,
    unpack_commands,
)

HEAD = mmap.PAGESIZE  # bytes of the shared file that are `Status`; after them comes what faulthandler writes
NOBODY = -1
_PR_SET_PDEATHSIG = 1
_TO_SAY_GOODBYE = 2.0  # seconds a worker has to end by itself when its parent has gone


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
    settings = Settings(**unpack(connection.recv_bytes()))
    _settle_in(settings, connection, shared)
    connection.send_bytes(b"ready")
    worker = Worker(settings, Status(shared))
    try:
        while True:
            replies, over = worker.serve(unpack_commands(connection.recv_bytes()))
            connection.send_bytes(pack((replies, over)))
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
            return "open", pack_opening(opening)
        assert text is not None
        self._status.tick()
        if what == "step":
            return "step", pack_step(stage.step(text))
        return "ask", stage.ask(text)

    def _begin(self, number: int, start: Start) -> Opening:
        self._status.tick(constructing=True)
        register(start)
        stage = self._stages[number] = Stage(start.spec, start.seed, self._settings.seconds)
        self._status.tick()
        if start.opening is None:
            return stage.open()
        return stage.restore(start.opening, start.history, self._status.tick)


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
