"""A method changed on the command line: `credit.KEY=VALUE` over a preset or over a run's own method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.credit.config import CreditConfig

CreditOverrides = Annotated[
    list[str] | None,
    typer.Argument(help="Parts of the method, as credit.part.key=value.", metavar="KEY=VALUE", show_default=False),
]


def preset_named(name: object) -> CreditConfig:
    from trpd_agents.config.problems import suggest
    from trpd_agents.credit.presets import PRESETS

    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"no method is called {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name].config


def changed_method(method: CreditConfig, overrides: Sequence[str]) -> CreditConfig:
    """`method` with `overrides` laid over it, as in a recipe; `credit.preset=NAME` starts from that preset instead.

    Raises:
        UserError: an override that is not about `credit`, or does not fit.
    """
    from trpd_agents.config.load import apply_overrides
    from trpd_agents.config.method import resolve
    from trpd_agents.config.problems import Problems

    for override in overrides:
        key = override.partition("=")[0]
        if not key.startswith("credit."):
            raise UserError(f"'{override}' is no setting of the method; write credit.KEY=VALUE, as in credit.gate=soft")
    changes: dict[str, Any] = apply_overrides({}, overrides).get("credit", {})
    if "preset" in changes:
        method = preset_named(changes.pop("preset"))
    try:
        return resolve(method, changes)
    except Problems as problems:
        lines = [f"{'.'.join(filter(None, ('credit', path)))}: {message}" for path, message in problems.found]
        raise UserError("\n  ".join(["this method cannot be used:", *lines])) from None
