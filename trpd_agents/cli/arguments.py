"""Arguments that several commands share, and the few checks that are about the command line itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.textenv import EnvSpec

Env = Annotated[
    str,
    typer.Option(
        "--env", help="Environment: an id of `trpd envs`, `module:Id-v0` or `path/file.py:Class`.", metavar="ID"
    ),
]
EnvArg = Annotated[
    list[str] | None,
    typer.Option("--env-arg", help="Keyword argument of the environment; may be repeated.", metavar="KEY=VALUE"),
]
MaxTurns = Annotated[
    int | None, typer.Option(min=1, help="Turns per episode; the environment's own limit if not given.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens per action.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next ones count up from it.")]


def env_spec(env_id: str, arguments: Sequence[str] | None) -> EnvSpec:
    """The environment named on the command line; values are read as YAML, so `rooms=5` is a number."""
    import yaml

    from trpd_agents.config.yaml_file import read_yaml
    from trpd_agents.textenv import EnvSpec

    kwargs: dict[str, Any] = {}
    for argument in arguments or ():
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"--env-arg '{argument}' is not KEY=VALUE, as in --env-arg rooms=5")
        try:
            kwargs[key] = read_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"--env-arg '{argument}': the value is not valid YAML: {error}") from None
    return EnvSpec(env_id, kwargs)


def refuse_existing(directory: Path | None, option: str, advice: str) -> None:
    """A directory that already holds something is never written into: its contents could be someone's results."""
    if directory is not None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{option} {directory} already exists and is not empty; {advice}")
