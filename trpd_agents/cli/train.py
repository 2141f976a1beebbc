"""`trpd train`: train a student as a recipe says, continue a run, or only check the recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trpd_agents.cli.arguments import refuse_existing
from trpd_agents.cli.report import is_cheap, report_at_end
from trpd_agents.errors import UserError
from trpd_agents.interrupt import Interrupted

if TYPE_CHECKING:
    from trpd_agents.config import RunConfig

_RESOLVED = "config.yaml"  # what a run directory calls its resolved configuration


def train(
    config: Annotated[
        str | None,
        typer.Argument(help="YAML file of the recipe; not needed with --resume.", metavar="CONFIG", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings laid over the recipe, as section.key=value.", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Directory for everything the run writes.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to continue from its last checkpoint.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration, try the environment, write nothing.")
    ] = False,
) -> None:
    """Train a student from its teacher.

    Examples:

    - `trpd train configs/FILE.yaml --dry-run` checks a recipe and its environment.
    - `trpd train configs/FILE.yaml training.steps=20 seed=1 --run-dir runs/first` changes two settings.
    - `trpd train configs/FILE.yaml credit.preset=opd env.kwargs.rooms=5` another method, a longer task.
    - `trpd train --resume runs/first` continues after an interruption, and does nothing else: settings that were edited
      since are refused.
    - `trpd train --resume runs/first learner.lr=1e-4` continues with another learning rate, which is then meant.
    """
    run = _load(config, list(overrides or ()), run_dir, resume)
    if dry_run:
        _dry_run(run)
        return
    from trpd_agents.run_directory import default_run_directory
    from trpd_agents.training import train as run_training

    if run_dir is None and resume is None and config is not None:
        run_dir = default_run_directory(Path(config).stem)
    given = [*([config] if config and "=" in config else []), *(overrides or ())]
    meant = [override.partition("=")[0] for override in given]
    directory = resume or run_dir
    try:
        _show(run_training(run, run_dir=run_dir, resume=resume, may_differ=meant))
    except Interrupted:
        if run.report and directory is not None and is_cheap(directory):
            report_at_end(directory)
        raise
    if run.report and directory is not None:
        report_at_end(directory)


def _load(config: str | None, overrides: list[str], run_dir: Path | None, resume: Path | None) -> RunConfig:
    from trpd_agents.config import load_config

    if resume is None:
        if config is None:
            raise UserError("a recipe is needed: trpd train CONFIG, or trpd train --resume RUN_DIR to continue a run")
        refuse_existing(run_dir, "--run-dir", f"continue that run with --resume {run_dir}, or name another directory")
        return load_config(config, overrides)
    if run_dir is not None:
        raise UserError("--resume continues in its own directory; leave out --run-dir")
    if config is not None and (Path(config).exists() or "=" not in config):
        return load_config(config, overrides)
    resolved = resume / _RESOLVED
    if not resolved.is_file():
        raise UserError(f"--resume {resume}: no {_RESOLVED} there; give the directory of a run that trpd train began")
    return load_config(resolved, [*([config] if config else []), *overrides])


def _dry_run(run: RunConfig) -> None:
    from trpd_agents.config import dump_config
    from trpd_agents.textenv import EnvSpec, check_environment

    print(dump_config(run), end="", flush=True)
    check_environment(EnvSpec(run.env.id, run.env.kwargs), max_turns=run.env.max_turns)
    print(f"# {run.env.id} plays as it should; nothing was written", file=sys.stderr)


def _show(summary: dict[str, Any]) -> None:
    from trpd_agents.cli.show import interval, show_table

    who = {"before": "student before", "after": "student after", "teacher": "teacher"}
    rows = []
    for key, name in who.items():
        if key not in summary:
            continue
        found = summary[key]
        rate = interval(found["success_rate"], *found["interval"])
        rows.append({"": name, "success rate [95 %]": rate, "episodes": str(found["episodes"])})
    show_table(rows)
    if change := summary.get("paired_difference"):
        print(f"after minus before, paired by seed: {interval(change['mean'], *change['interval'], sign='+')}")
    print(f"run directory: {summary['run_dir']}")
