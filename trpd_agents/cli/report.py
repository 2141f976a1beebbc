"""`trpd report`: a run's episodes and curves as pages that are opened from disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.report import Written

_CHEAP = 2 << 20  # bytes of stored episodes


def report(
    run: Annotated[Path, typer.Argument(help="Directory of a run, finished or not.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pages; `report` in the run's directory if not given.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this run on the episodes that both played.", metavar="RUN2")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the first page in a browser.")] = False,
) -> None:
    """Write pages about a run: curves, warnings, and every stored episode token by token, with the reason of each mask.

    The folder is self-contained: open its `index.html` from disk. Nothing is loaded from a network and nothing in the
    run is changed; an earlier report is replaced. `trpd train` does this when it ends, unless `report=false`.

    Examples:

    - `trpd report runs/first` writes `runs/first/report/`.
    - `trpd report runs/first --against runs/second` also shows where the two part, episode by episode.
    - `trpd report runs/first --out pages --open` writes elsewhere and opens the page.
    """
    written = write_with_progress(run, out, against)
    print(f"{written.episodes} episodes; open {written.index}")
    if open_page:
        typer.launch(written.index.resolve().as_uri())


def write_with_progress(run: Path, out: Path | None = None, against: Path | None = None) -> Written:
    """Write a report, showing how far it is; what could not be shown is said on stderr."""
    from trpd_agents.progress import Progress
    from trpd_agents.report import write_report
    from trpd_agents.report.files import stored_steps

    total = sum(len(stored_steps(path)) for path in (run, against) if path is not None)
    with Progress(quiet=total == 0).phase("report", total) as shown:
        written = write_report(run, out, against, on_file=lambda done, _: shown.update(done))
    say_missing(written.missing)
    return written


def say_missing(missing: Sequence[str]) -> None:
    from trpd_agents.report.text import visible

    for what in missing:
        print(f"not shown: {visible(what)}", file=sys.stderr)


def is_cheap(run: Path) -> bool:
    """Whether a run that somebody wants to be over has little enough to report on, a second or two; and something."""
    from trpd_agents.report.files import stored_steps

    return 0 < sum(file.stat().st_size for file in stored_steps(run).values()) < _CHEAP


def report_at_end(run: Path) -> None:
    """The report of a run that has just ended. It is an addition: what goes wrong with it does not fail the run."""
    try:
        print(f"report: {write_with_progress(run).index}")
    except UserError as error:
        print(f"no report was written: {error}", file=sys.stderr)
