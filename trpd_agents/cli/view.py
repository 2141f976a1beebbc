"""`trpd view`: a run's stored episodes in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.cli.report import say_missing
from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.report import EpisodeSeen, RunFiles

_POLL = 1.0  # seconds between two looks at a run in progress


def view(
    run: Annotated[Path, typer.Argument(help="Directory of a run, finished or not.", metavar="RUN")],
    episode: Annotated[
        int | None, typer.Option(help="Show this episode in full, by its number.", metavar="N", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only episodes that did not succeed.")] = False,
    step: Annotated[
        int | None, typer.Option(help="Only episodes of this update.", metavar="N", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with new episodes as the run stores them, until it has finished.")
    ] = False,
) -> None:
    """List a run's stored episodes, or read one: what was said token by token, and why a turn was masked.

    Tokens are coloured by the log ratio of teacher to student: orange where the teacher likes them less, blue where it
    likes them more. Which updates are stored is `training.save_trajectories_every`.

    Examples:

    - `trpd view runs/first --failed` lists the episodes that did not succeed.
    - `trpd view runs/first --episode 12` reads one.
    - `trpd view runs/first --follow --failed` shows failures while `trpd train` is running.
    """
    from trpd_agents.report import open_run_files

    if follow and (episode is not None or step is not None):
        raise UserError("--follow goes on with what is new; leave out --episode and --step")
    files = open_run_files(run)
    if step is not None and step not in files.steps:
        stored = ", ".join(map(str, files.steps)) or "none"
        raise UserError(f"--step {step}: this update was not stored; stored are: {stored}")
    if episode is not None:
        _read(files, episode, step)
    else:
        _list(_following(files) if follow else _stored(files, step), failed)
    say_missing(files.missing)


def _stored(files: RunFiles, step: int | None) -> Iterator[list[EpisodeSeen]]:
    """The episodes of one file at a time."""
    from trpd_agents.report import stream_episodes

    for number in [step] if step is not None else list(files.steps):
        yield list(stream_episodes(files, [number]))


def _following(files: RunFiles) -> Iterator[list[EpisodeSeen]]:
    """What is stored, then what comes, until the run has finished."""
    from trpd_agents.report import open_run_files

    shown: set[int] = set()
    while True:
        found = open_run_files(files.path)
        for number in [number for number in found.steps if number not in shown]:
            shown.add(number)
            yield from _stored(found, number)
        if found.finished:
            return
        time.sleep(_POLL)


def _list(parts: Iterator[list[EpisodeSeen]], failed: bool) -> None:
    from trpd_agents.cli.show import show_table
    from trpd_agents.report.lines import row

    shown = total = 0
    for part in parts:
        total += len(part)
        rows = [row(seen) for seen in part if not failed or not seen.trajectory.success]
        shown += len(rows)
        if rows:
            show_table(rows)
            print(flush=True)
    print(f"{shown} of {total} stored episodes; `--episode N` reads one")


def _read(files: RunFiles, episode: int, step: int | None) -> None:
    from rich.console import Console

    from trpd_agents.report import stream_episodes
    from trpd_agents.report.lines import transcript
    from trpd_agents.report.vocabulary import Vocabulary

    at = _step_of(files, episode) if step is None else step
    for seen in stream_episodes(files, [] if at is None else [at]):
        if seen.trajectory.id == episode:
            Console(highlight=False).print(transcript(seen, Vocabulary(files.tokenizer)))
            return
    raise UserError(f"--episode {episode}: no stored episode has this number; `trpd view {files.path}` lists them")


def _step_of(files: RunFiles, episode: int) -> int | None:
    """The first stored update with this episode, found without reading more than the numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, file in files.steps.items():
        try:
            numbers = pq.read_table(file, columns=["id"])["id"]
        except (OSError, pa.ArrowInvalid, KeyError):
            continue  # named as missing when it is read
        if episode in numbers.to_pylist():
            return number
    return None
