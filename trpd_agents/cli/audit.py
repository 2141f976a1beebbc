"""`trpd audit`: is the teacher right where the student goes, and would a mask have known?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.cli.arguments import refuse_existing
from trpd_agents.cli.credit_arguments import changed_method, preset_named
from trpd_agents.errors import UserError
from trpd_agents.interrupt import Interrupted

if TYPE_CHECKING:
    from trpd_agents.audit import Audit
    from trpd_agents.credit.config import CreditConfig


def audit(
    recipe: Annotated[str, typer.Argument(help="YAML file of the recipe.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings laid over the recipe, as section.key=value.", metavar="KEY=VALUE"),
    ] = None,
    episodes: Annotated[int, typer.Option("-n", "--episodes", min=1, help="Episodes that the student plays.")] = 128,
    student: Annotated[
        str | None,
        typer.Option(
            help="A model to play in place of the recipe's student, as it is.", metavar="MODEL", show_default=False
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Audit this method instead of the usual ones; may be repeated.",
            metavar="'PRESET [credit.KEY=VALUE ...]'",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for tables, pictures and every turn.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the first episode; the recipe's first held-out one if not given."),
    ] = None,
) -> None:
    """Hold a learned teacher, and the masks over its supervision, against the truth.

    The student plays; at every turn the teacher is asked for its preferred action, and the environment's expert says
    what was optimal. Shown are how well each statistic tells the turns at which the teacher is wrong, and which shares
    of good and of bad supervision each method masks. Nothing is trained but the two starts, if they are not there yet.

    Examples:

    - `trpd audit configs/FILE.yaml --out runs/audit`
    - `trpd audit configs/FILE.yaml --student runs/first/student -n 256` looks at where a trained student goes.
    - `trpd audit configs/FILE.yaml --method occupancy --method 'occupancy credit.rule.budget=8'` compares thresholds.
    """
    from trpd_agents.config import load_config

    refuse_existing(out, "--out", "name another directory")
    methods = None if method is None else dict(_named(text) for text in method)
    config = load_config(recipe, list(overrides or ()))
    from trpd_agents.audit import audit as run_audit

    try:
        found = run_audit(config, episodes, first_seed=seed, student=student, methods=methods)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    _show(found)
    if out is not None:
        from trpd_agents.audit import write_audit

        written = write_audit(found, out)
        print(f"\nwritten to {out}: {', '.join(written)}")
        if "plots/" not in written:
            print("plots need matplotlib: pip install 'trpd-agents[study]'")


def _named(text: str) -> tuple[str, CreditConfig]:
    """A preset, and what is changed in it, in the words that other commands take."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--method {text!r} cannot be read: {error}") from None
    if not words:
        raise UserError("--method: a preset wanted, found nothing; `trpd methods` lists them")
    return text, changed_method(preset_named(words[0]), words[1:])


def _show(found: Audit) -> None:
    from trpd_agents.audit import tables
    from trpd_agents.audit.report import headline
    from trpd_agents.cli.show import show_table

    print(f"\n{headline(found)}")
    for table in tables(found):
        print(f"\n{table.title}\n{table.explanation}\n")
        show_table(table.rows)
