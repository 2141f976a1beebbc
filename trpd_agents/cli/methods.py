"""`trpd methods`: the named methods, and any of them written out in full."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trpd_agents.cli.credit_arguments import CreditOverrides, changed_method, preset_named

if TYPE_CHECKING:
    from trpd_agents.credit.config import CreditConfig

methods = typer.Typer(rich_markup_mode="markdown")


@methods.callback(invoke_without_command=True)
def list_methods(context: typer.Context) -> None:
    """List the methods that `credit.preset` can name, with what each does and its paper.

    A method is a configuration and nothing else. `trpd methods show NAME` prints all of it, ready to be pasted into a
    recipe; any part can be changed there or on the command line.

    Examples:

    - `trpd methods` lists all of them.
    - `trpd methods show tropd` prints one in full.
    - `trpd methods show tropd credit.outlier.top_k=32 credit.gate=soft` prints it with two parts changed.
    - `trpd train configs/FILE.yaml credit.preset=tropd credit.outlier.top_k=32` trains with a method.
    """
    if context.invoked_subcommand is not None:
        return
    from trpd_agents.cli.show import show_table
    from trpd_agents.credit.presets import PRESETS

    show_table(
        [
            {"method": name, "what it does": preset.summary, "arXiv": ", ".join(preset.sources) or "-"}
            for name, preset in PRESETS.items()
        ]
    )


@methods.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A method that `trpd methods` lists.", metavar="NAME")],
    overrides: CreditOverrides = None,
) -> None:
    """Print a method's whole configuration as the `credit` section of a recipe, with what each setting means.

    Examples:

    - `trpd methods show trajectory` prints one method.
    - `trpd methods show opd credit.rule=hysteresis credit.rule.patience=3` prints it with another rule.
    - `trpd methods show opd credit.rule=hysteresis >> FILE.yaml` adds it to a recipe without a `credit` section.
    """
    from trpd_agents.credit.presets import PRESETS

    method = changed_method(preset_named(name), overrides or ())
    preset = PRESETS[name]
    print(f"# {preset.summary}")
    for source in preset.sources:
        print(f"# https://arxiv.org/abs/{source}")
    print(as_section(name, method), end="")


def as_section(preset: str, method: CreditConfig) -> str:
    """The `credit` section of a recipe that is `method`, each setting followed by its meaning as a comment."""
    from trpd_agents.config.yaml_file import write_yaml

    parts = {name: {"kind": part["kind"]} | part for name, part in dataclasses.asdict(method).items()}
    lines = write_yaml({"credit": {"preset": preset, **parts}}).splitlines()
    written: list[str] = []
    part: Any = None
    for line in lines:
        indent, key = re.fullmatch(r"( *)([^:]+):.*", line).groups()  # type: ignore[union-attr]
        if len(indent) == 2:
            part = getattr(method, key, None)
        meaning = meanings(part).get(key, "") if len(indent) == 4 else ""
        written.append(f"{line}  # {meaning}" if meaning else line)
    return "\n".join(written) + "\n"


def meanings(part: Any) -> dict[str, str]:
    """What each setting of one part of a method means: `kind` by the first sentence of what implements it, the others
    by the comments beside them in the source of their class."""
    from trpd_agents.credit import STATISTICS, Divergence

    found: dict[str, str] = {}
    for cls in reversed(type(part).__mro__):
        if dataclasses.is_dataclass(cls):
            found |= dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), re.MULTILINE))
    told = STATISTICS[part.kind] if isinstance(part, Divergence) else part
    sentence = " ".join((told.__doc__ or "").split("\n\n")[0].split())
    return {**found, "kind": sentence.removesuffix(".")}
