"""One worker process, seen from its parent: starting it, talking to it, watching it, and finding out what killed it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection

from trpd_agents.textenv.blame import deepest
from trpd_agents.textenv.episode_env import CONSTRUCTION_SECONDS
from trpd_agents.textenv.worker import HEAD, Status
from trpd_agents.textenv.worker_messages import Command, Reply, Settings, pack, pack_commands, unpack

START_SECONDS = 60.0  # for starting Python and importing what a worker needs
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
_LAST_WORDS = 1 << 16  # bytes of a traceback that are read
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)


class WorkerProcess:
    """A session of its own, so that Ctrl-C does not reach it, and so that what an environment starts dies with it.

    A new interpreter, and not a fork: a fork copies locks that another thread holds. Nor does it import the caller's
    script again, as multiprocessing does.
    """

    def __init__(self, seconds: float, memory_mb: int | None):
        self._seconds = seconds
        # The worker interrupts what can be interrupted, and says where it was; what cannot be is killed a little later.
        self._patience = 1.1 * seconds + 0.25
        self._shared = tempfile.TemporaryFile()
        self._shared.truncate(HEAD)
        self._shared.seek(HEAD)
        self.status = Status(self._shared.fileno())
        ours, theirs = socket.socketpair()
        descriptors = (theirs.fileno(), self._shared.fileno())
        bound = threading.current_thread() is threading.main_thread()  # the signal comes with the thread's death
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from trpd_agents.textenv.worker import main; main()", *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
                pass_fds=descriptors,
            )
        self._socket = ours
        self.connection = Connection(os.dup(ours.fileno()))
        with contextlib.suppress(OSError):  # if it is dead already, that is found out when it is listened to
            self.connection.send_bytes(pack(asdict(Settings(list(sys.path), seconds, memory_mb, os.getpid(), bound))))
        self.starting = True
        self._seen, self._since = 0, time.monotonic()

    def send(self, commands: Sequence[Command]) -> None:
        """Raises OSError when it is dead."""
        self._since = time.monotonic()
        self.connection.send_bytes(pack_commands(commands))

    def receive(self) -> tuple[list[Reply], bool]:
        """What it says next, blocking. Raises EOFError or OSError when it is dead."""
        message = self.connection.recv_bytes()
        if self.starting:
            self.starting = False
            return [], False
        replies, over = unpack(message)
        return replies, over

    def waiting(self) -> float:
        """Seconds since it began the call it is in."""
        if (ticks := self.status.ticks) != self._seen:
            self._seen, self._since = ticks, time.monotonic()
        return time.monotonic() - self._since

    @property
    def overdue(self) -> bool:
        if self.starting:
            return self.waiting() > START_SECONDS
        return self.waiting() > (CONSTRUCTION_SECONDS if self.status.constructing else 0) + self._patience

    def kill(self, ask_where: bool = False) -> tuple[str, str]:
        """End it, if it still lives, with everything it has started. How it ended, and where in the user's code."""
        if ask_where:
            self._ask_where()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        words = os.pread(self._shared.fileno(), _LAST_WORDS, HEAD).decode("utf-8", "replace")
        self.connection.close()
        self._socket.close()
        self._shared.close()
        frames = [(found["file"], int(found["line"]), found["name"]) for found in _FRAME.finditer(words)]
        return _how(code), deepest(frames[::-1])

    def leave(self) -> None:
        """Let it go, without waiting for it; `kill` has to follow."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def gone(self, seconds: float) -> bool:
        """Whether it has ended by itself within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _ask_where(self) -> None:
        """Have it write down where it is: the handler runs inside of a call that never comes back to Python, too."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 0.2
        while os.fstat(self._shared.fileno()).st_size <= HEAD and time.monotonic() < deadline:
            time.sleep(0.005)


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as happens when memory runs out"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"died of {signal.Signals(-code).name}"
    return f"ended with code {code}"
