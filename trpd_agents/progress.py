"""Progress of long work: a live bar on a terminal, a line now and then in a pipe or a log file, nothing if nobody
asked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from trpd_agents.safe_text import visible

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class Phase:
    """One piece of work of known length. `update` says how much is done and shows `figures` beside it."""

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None: ...


class _BarPhase(Phase):
    def __init__(self, bars: Bars, title: str, total: int):
        self.bars = bars
        self.task = bars.add_task(title, total=total, figures="")

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if figures is not None:
            self.bars.update(self.task, figures=_shown(figures))
        self.bars.update(self.task, completed=done)


class _LinePhase(Phase):
    def __init__(self, title: str, total: int):
        self.title, self.total = title, total
        self.started = self.printed = time.monotonic()
        print(f"{title} ...", flush=True)

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if now - self.printed < LINE_SECONDS and done < self.total:
            return
        self.printed = now
        elapsed = now - self.started
        left = elapsed / max(done, 1) * (self.total - done)
        shown = f"  {_shown(figures)}" if figures else ""
        print(f"{self.title} {done}/{self.total}  {elapsed:.0f} s, {left:.0f} s left{shown}", flush=True)


class Progress:
    """Shows phases one after another. `quiet` shows nothing (for other ranks, and for library use)."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = Console()

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Phase]:
        if self.quiet:
            yield Phase()
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            with Bars(*columns, console=self.console) as bars:
                yield _BarPhase(bars, f"{title:<28}", total)
        else:
            yield _LinePhase(title, total)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(visible(text), file=sys.stdout, flush=True)


def _shown(figures: Mapping[str, float]) -> str:
    return "  ".join(
        f"{name} {value:,.0f}" if value >= 100 else f"{name} {value:.3g}" for name, value in figures.items()
    )
