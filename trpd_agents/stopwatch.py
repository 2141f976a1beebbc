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
        self.last: dict[str, float] = {}  # seconds of the latest passage through each phase

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.last[phase] = time.perf_counter() - started
            self.seconds[phase] += self.last[phase]
