"""`trpd study`: run methods x environments x teachers x seeds, and write down what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted


def study(
    config: Annotated[Path, typer.Argument(help="YAML file of the study.", metavar="STUDY")],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the study; runs/study/NAME of the file if not given.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("-j", "--jobs", min=1, help="Members at a time; one for each core if not given."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Run only members that fit, and what they need.", metavar="ENVIRONMENT/TEACHER/METHOD/SEED"),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write tables and plots of what is there.")
    ] = False,
) -> None:
    """Compare methods over environments, teachers and seeds.

    The same command goes on where an interrupted study stopped; a finished member is never run again.

    Examples:

    - `trpd study configs/study/FILE.yaml --jobs 8`
    - `trpd study configs/study/FILE.yaml --only 'courier/*/opd/0'` runs one member, and the models that it needs.
    - `trpd study configs/study/FILE.yaml --report-only`
    """
    out = out or Path("runs") / "study" / config.stem
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a directory")
    from trpd_agents.study import load_study, run_study, write_report

    loaded = load_study(config)
    again = f"trpd study {config} --out {out}"
    failed: dict[str, str] = {}
    if not report_only:
        try:
            failed = run_study(loaded, out, jobs=jobs, only=only)
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}: {again}") from None
    print(write_report(loaded, out))
    print(f"written to {out}: tables.md, results.json, results.parquet, curves.parquet, plots/")
    if failed:
        listed = "\n  ".join(f"{name}: {error.splitlines()[0]}" for name, error in failed.items())
        raise RunError(f"{len(failed)} failed; `{again}` tries them again:\n  {listed}")
