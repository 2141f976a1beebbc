"""Where the time and the tokens of a run go, by phase."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """`seconds` and `tokens` by phase, added up over the run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.fresh: dict[str, float] = defaultdict(float)  # seconds by phase that `take` has not told yet

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[phase] += spent
            self.fresh[phase] += spent

    def take(self, phase: str) -> float:
        """Seconds spent in a phase since this was last asked; it may have been passed through several times."""
        return self.fresh.pop(phase, 0.0)
