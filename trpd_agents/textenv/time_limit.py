"""A wall-clock limit on one call into code that is not ours.

Enforced with `signal.setitimer(ITIMER_REAL)`, so only in the main thread of a process and only where the platform has
it (Linux, macOS); anywhere else the call runs without a limit. Python code, sleeps and most of the standard library
are interrupted; a single C call that never returns to the interpreter is not. Arming and disarming costs
microseconds.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

# The signal comes again at this interval in seconds, for code that catches everything in an endless loop.
_INSIST = 0.5


class TimeExpired(BaseException):
    """The call ran past its limit. Not an `Exception`, so `except Exception` in the called code does not swallow it."""


def can_limit() -> bool:
    """Whether a limit would be enforced here and now."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def call_within(seconds: float, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`function(*args, **kwargs)`, raising `TimeExpired` after `seconds`. An outer timer and handler are put back."""
    if not can_limit():
        return function(*args, **kwargs)
    armed = True

    def expire(signum: int, frame: FrameType | None) -> None:
        if armed:
            raise TimeExpired

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _INSIST)
    try:
        try:
            return function(*args, **kwargs)
        finally:
            armed = False  # a signal that arrives from here on must not fire while things are put back
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        # None means that the handler was installed from C: it cannot be put back from Python.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if delay:
            # An outer timer that came due meanwhile fires at once: 0 would switch it off instead.
            signal.setitimer(signal.ITIMER_REAL, max(delay - (time.monotonic() - started), 1e-6), interval)
