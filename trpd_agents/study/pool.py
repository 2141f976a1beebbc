"""Worker processes that the study's own process gives jobs to.

A worker that dies takes only its job with it: the next job gets a new worker. Workers are a session of their own, so
that Ctrl-C reaches the study alone, which then decides how they stop.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclass(frozen=True)
class Ended:
    """How a job ended: `status` is "done", "failed" or "interrupted"."""

    job: str
    status: str
    error: str | None


class Pool:
    """At most `size` workers. `held` are file descriptors that stay open until the last worker is gone."""

    def __init__(self, size: int, held: tuple[int, ...] = ()):
        self.size, self.held = size, held
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: dict[subprocess.Popen[bytes], str] = {}

    @property
    def running(self) -> list[str]:
        return list(self._busy.values())

    @property
    def free(self) -> int:
        return self.size - len(self._busy)

    def start(self, job: str, payload: Mapping[str, Any]) -> None:
        """Give a job to an idle worker, or to a new one."""
        worker = self._idle.pop() if self._idle else self._spawn()
        assert worker.stdin is not None
        self._busy[worker] = job
        try:
            worker.stdin.write(json.dumps(payload).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:
            pass  # it died while idle; `wait` finds out

    def wait(self) -> list[Ended]:
        """Until at least one running job has ended; all that have."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                assert worker.stdout is not None
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select()]
        return [self._ended(worker) for worker in ready]

    def _ended(self, worker: subprocess.Popen[bytes]) -> Ended:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        job = self._busy.pop(worker)
        if not line.endswith(b"\n"):
            return Ended(job, "failed", _obituary(worker))
        answer = json.loads(line)
        if answer["status"] == "interrupted":
            worker.wait()
        else:
            self._idle.append(worker)
        return Ended(job, answer["status"], answer["error"])

    def ask_to_stop(self) -> None:
        """Runs save after the step they are in, and end; `wait` tells of each."""
        for worker in self._busy:
            worker.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End every worker, whatever it is doing."""
        for worker in [*self._idle, *self._busy]:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass
        self._idle, self._busy = [], {}

    def _spawn(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, sys.path))  # what is importable here is importable there
        return subprocess.Popen(
            [sys.executable, "-m", "trpd_agents.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path},
            start_new_session=True,
            pass_fds=self.held,
        )


def _obituary(worker: subprocess.Popen[bytes]) -> str:
    code = worker.wait()
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as happens when memory runs out"
    return f"its process died of {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
