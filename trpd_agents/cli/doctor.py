"""`trpd doctor`: is a run set up so that it can learn, before it costs a night?"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trpd_agents.doctor.finding import Finding


def doctor(
    config: Annotated[str, typer.Argument(help="YAML file of the recipe.", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings laid over the recipe, as section.key=value.", metavar="KEY=VALUE"),
    ] = None,
    episodes: Annotated[
        int, typer.Option("-n", "--episodes", min=1, help="Episodes that student and teacher play in full.")
    ] = 32,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what needs no weights: no model is made, none plays.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> None:
    """Examine a recipe: tokens, templates, teacher, sampler, environment, machine, and what the run will cost.

    Each check says what was found, what is wanted and what to do. Nothing is trained and no run directory is written;
    models that start by imitation are made if they are not there yet, which takes as long as at the start of a run,
    and kept for it. `trpd train` begins with the checks that take a moment; all of them are explained in
    docs/doctor.md.

    The exit code is 0 if there is no error, 1 if there is one, and 2 if the recipe cannot be read.

    Examples:

    - `trpd doctor configs/FILE.yaml`
    - `trpd doctor configs/FILE.yaml --quick` takes seconds.
    - `trpd doctor configs/FILE.yaml teacher.imitation.mistakes=0.2 -n 128` is that teacher better than the student?
    - `trpd doctor configs/FILE.yaml --strict --json > findings.json` for continuous integration.
    """
    from trpd_agents.config import load_config

    run = load_config(config, list(overrides or ()))
    from trpd_agents.doctor.examine import examine
    from trpd_agents.doctor.finding import of_kind
    from trpd_agents.progress import Progress
    from trpd_agents.textenv.checks.finding import Verdict

    findings = examine(run, quick=quick, episodes=episodes, progress=Progress(quiet=as_json or quick))
    errors, warned = of_kind(findings, Verdict.ERROR), of_kind(findings, Verdict.WARNING)
    if as_json:
        print(json.dumps({"config": config, "findings": [dataclasses.asdict(f) for f in findings]}, indent=2))
    else:
        _show(findings)
        print(f"\n{config}: {len(errors)} errors, {len(warned)} warnings, {len(findings)} checks")
    if errors or (strict and warned):
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    from trpd_agents.cli.show import show_table
    from trpd_agents.cli.terminal import printable

    rows = [{"check": f.check, "verdict": str(f.verdict), "found": f.found, "wanted": f.wanted} for f in findings]
    show_table([{key: " ".join(printable(text).split()) for key, text in row.items()} for row in rows])
    for finding in findings:
        if finding.fix:
            print(f"\n{finding.verdict}, {finding.check}: {printable(finding.found)}\n  do: {printable(finding.fix)}")
