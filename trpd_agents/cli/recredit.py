"""`trpd recredit`: what another method would have made of a run's stored trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.cli.credit_arguments import CreditOverrides, changed_method
from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.recredit import Comparison


def recredit(
    run: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")],
    overrides: CreditOverrides = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Take this step alone; may be repeated.", metavar="N", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write every token's weights and reason to this Parquet file.")
    ] = None,
) -> None:
    """Compute credit again on a run's stored trajectories, under another method: for choosing thresholds.

    Needs no model and takes seconds. Overrides are laid over the run's own method; `credit.preset=NAME` starts from
    that preset instead. Shown are both: which share of tokens is kept at each turn, why, and how far teacher and
    student are apart there. The run is not changed.

    Examples:

    - `trpd recredit runs/first credit.preset=tropd` compares the run's own method with a preset.
    - `trpd recredit runs/first credit.rule=hysteresis credit.rule.enter=0.2` compares it with another rule.
    - `trpd recredit runs/first credit.rule.budget=8 --step 50 --out tokens.parquet` looks at one step, token by token.
    """
    from trpd_agents.recredit import open_run, summary, write_tokens
    from trpd_agents.recredit import recredit as compute

    if out is not None and (out.exists() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out}: a new file in an existing directory wanted")
    stored = open_run(run, step or ())
    comparison = compute(stored, changed_method(stored.config.credit.method, overrides or ()))
    if out is not None:
        write_tokens(out, comparison)
    if as_json:
        print(json.dumps(summary(comparison), indent=2))
    else:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    from trpd_agents.cli.show import show_table
    from trpd_agents.recredit import QUANTILES

    own, new, tokens = comparison.own, comparison.new, comparison.tokens
    total = sum(tokens)
    print(f"{comparison.trajectories} trajectories of {len(comparison.steps)} stored steps, {total} action tokens\n")
    every = zip(tokens, own.kept_share, new.kept_share, own.policy_weight, new.policy_weight, strict=True)
    last = _turn("all", total, own.kept_share_all, new.kept_share_all, own.policy_weight_all, new.policy_weight_all)
    show_table([*(_turn(str(k), *row) for k, row in enumerate(every)), last])
    print("\nkept: share of action tokens with a weight in either KL; weight: mean weight in reverse KL")
    print(f"dropped by the new method: {comparison.dropped} tokens; gained: {comparison.gained}\n")
    show_table(
        [
            {"tokens: run": str(own.reasons.get(why, 0)), "tokens: new": str(new.reasons.get(why, 0)), "why": why}
            for why in dict.fromkeys([*own.reasons, *new.reasons])
        ]
    )
    print("\nturn divergence under the new method, quantiles over the turns that count")
    show_table(
        [
            {
                "turn": str(k),
                **{f"{q:.0%}": _share(None if found is None else found[i]) for i, q in enumerate(QUANTILES)},
            }
            for k, found in enumerate(new.divergence)
        ]
    )
    for note in comparison.notes:
        print(f"note: {note}")


def _turn(name: str, tokens: int, *shares: float | None) -> dict[str, str]:
    columns = ("kept: run", "kept: new", "weight: run", "weight: new")
    return {"turn": name, "tokens": str(tokens), **dict(zip(columns, map(_share, shares), strict=True))}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
