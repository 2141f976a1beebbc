"""Ctrl-C and SIGTERM. In the training loop the first asks to stop after the step, and the second abandons the step;
outside of it, where there is no step to finish, the first stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run stopped because it was asked to. The message says how to go on."""


class StopRequest:
    """`asked` becomes True at the first signal. `in_step` says that there is a step worth finishing."""

    def __init__(self) -> None:
        self.asked = False
        self.in_step = False


@contextmanager
def stop_on_signal(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM make the request; made already, or outside a step, KeyboardInterrupt rises.

    Signals can only be caught in the main thread; elsewhere the request is simply never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.asked or not request.in_step:
            raise KeyboardInterrupt
        request.asked = True
        say("stopping after this step and saving; once more to abandon the step")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
