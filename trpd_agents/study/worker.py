"""A worker process: takes one job after another as a line of JSON, and answers each with a line of JSON.

Starting Python, torch and transformers takes seconds, so a worker stays. It computes with one thread. What a job
prints goes to that job's log. SIGTERM, or the end of its input because the study's own process is gone, lets a run
save and stop.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _send_output_to(os.devnull)
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(os.dup(0), jobs), daemon=True).start()
    while True:
        payload = json.loads(jobs.get())
        answer = _answer(payload)
        print(json.dumps(answer), file=answers, flush=True)
        if answer["status"] == "interrupted":
            return
        gc.collect()


def _listen(source: int, jobs: queue.Queue[str]) -> None:
    """Pass lines on; at the end of the input nobody waits for this process any more."""
    with os.fdopen(source, encoding="utf-8") as lines:
        for line in lines:
            jobs.put(line)
    os.kill(os.getpid(), signal.SIGTERM)


def _answer(payload: dict[str, Any]) -> dict[str, Any]:
    log = Path(payload["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    _send_output_to(str(log))
    try:
        import torch

        from trpd_agents.errors import RunError, UserError
        from trpd_agents.interrupt import Interrupted
        from trpd_agents.study.work import do

        torch.set_num_threads(1)
        try:
            do(payload)
        except (UserError, RunError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return {"status": "failed", "error": str(error)}
        except (Interrupted, KeyboardInterrupt) as stopped:
            print(stopped, flush=True)
            return {"status": "interrupted", "error": str(stopped)}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return {"status": "done", "error": None}


def _send_output_to(file: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


if __name__ == "__main__":
    main()
