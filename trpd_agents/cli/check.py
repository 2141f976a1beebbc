"""`trpd check`: everything about an environment that can be found out by trying, with what to do about it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.cli.arguments import EnvArg, MaxTurns, env_spec

if TYPE_CHECKING:
    from trpd_agents.textenv.checks import Finding

EnvName = Annotated[
    str,
    typer.Argument(help="Environment: an id of `trpd envs`, `module:Id-v0` or `path/file.py:Class`.", metavar="ENV"),
]


def check(
    env: EnvName,
    env_arg: EnvArg = None,
    seeds: Annotated[int, typer.Option("-n", "--seeds", min=1, help="Episodes that the expert has to solve.")] = 20,
    max_turns: MaxTurns = None,
    time_limit: Annotated[float, typer.Option(min=0.01, help="Seconds for one reset or step.")] = 10.0,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds that each check aims to take at most.")] = 30.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> None:
    """Try an environment in every way that has been the ruin of a run: Gymnasium's checks, and those for text agents.

    Each finding says what was found, why it matters and how to fix it. The environment is played in a process of its
    own, so one that hangs or crashes is found out, too. Any Gymnasium environment with text observations and actions
    can be checked, whatever it was written for.

    The exit code is 0 if there is no error, 1 if there is one, and 2 if there is no such environment.

    Examples:

    - `trpd check Courier-v0`
    - `trpd check my_env.py:MyEnv --env-arg size=5 -n 100`
    - `trpd check my_package:Thing-v0 --strict --json > findings.json` for continuous integration.
    """
    spec = env_spec(env, env_arg)
    from rich.console import Console

    from trpd_agents.cli.terminal import printable
    from trpd_agents.textenv.checks import Settings, Verdict, count, examine

    settings = Settings(seeds=seeds, max_turns=max_turns, seconds=time_limit, budget=budget)
    with Console(stderr=True).status(f"checking {printable(env)}") as status:
        findings = examine(spec, settings, lambda finding: status.update(f"checked {printable(finding.check)}"))
    errors, warned = count(findings, Verdict.ERROR), count(findings, Verdict.WARNING)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"env": spec.id, "kwargs": spec.kwargs, "findings": listed}, indent=2))
    else:
        _show(findings)
        print(f"\n{spec.id}: {errors} errors, {warned} warnings, {len(findings)} findings")
    if errors or (strict and warned):
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    from trpd_agents.cli.show import show_table
    from trpd_agents.cli.terminal import printable

    rows = [{"check": f.check, "verdict": str(f.verdict), "found": f.found} for f in findings]
    show_table([{key: printable(text) for key, text in row.items()} for row in rows])
    for finding in findings:
        if finding.why:
            print(f"\n{finding.verdict}, {printable(finding.check)}: {printable(finding.found)}")
            print(f"  why: {printable(finding.why)}\n  fix: {printable(finding.fix)}")
