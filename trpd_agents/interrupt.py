"""Ctrl-C and SIGTERM. In the training loop the first asks to stop after the step, and the second abandons the step;
outside of it, where there is no step to finish, the first stops at once. Who sends SIGTERM will soon send SIGKILL, so a
step that is then not over within seconds is abandoned, too. While a checkpoint is written nothing stops it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 6.0  # seconds between SIGTERM and abandoning the step: the rest of ten is for writing the checkpoint


class Interrupted(Exception):
    """The run stopped because it was asked to. The message says how to go on."""


class StopRequest:
    """`asked` becomes True at the first signal. `in_step` says that there is a step worth finishing."""

    def __init__(self) -> None:
        self.asked = False
        self.in_step = False
        self._writing = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block no signal abandons anything."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    @property
    def abandons(self) -> bool:
        """Whether the next signal stops what is being done."""
        return not self._writing and (self.asked or not self.in_step)


@contextmanager
def stop_on_signal(say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM make the request; made already, or outside a step, KeyboardInterrupt rises.

    Signals can only be caught in the main thread; elsewhere the request is simply never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    hurry: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if request.abandons:
            raise KeyboardInterrupt
        if request.asked:
            return
        request.asked = True
        if number == signal.SIGTERM:
            say(f"stopping after this step and saving; a step that takes more than {patience:g} s is abandoned")
            hurry.append(threading.Timer(patience, os.kill, (os.getpid(), signal.SIGTERM)))
            hurry[0].daemon = True
            hurry[0].start()
        else:
            say("stopping after this step and saving; once more to abandon the step")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for timer in hurry:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
