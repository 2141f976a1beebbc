"""`trpd envs`: what there is to play."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trpd_agents.cli.arguments import EnvArg, env_spec
from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.textenv import EnvSpec


def envs(
    textarena: Annotated[bool, typer.Option("--textarena", help="List the TextArena games instead.")] = False,
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="List recognised benchmarks that other packages bring instead.")
    ] = False,
    card: Annotated[
        str | None,
        typer.Option(help="Measure how lasting mistakes in this environment are.", metavar="ID", show_default=False),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option("-n", "--episodes", min=1, help="With --card: environment seeds to play, 200 if not given."),
    ] = None,
    env_arg: EnvArg = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="With --card: turns per episode.")] = None,
) -> None:
    """List environments: what counts as success, the most turns of an episode, their tools, and if an expert exists.

    Each of those that come with this package has two more difficulties: Courier-easy-v0 and Courier-hard-v0, say.

    Any other Gymnasium environment with text observations and actions can be played too: as `module:Id-v0`, or as
    `path/file.py:Class`.

    Examples:

    - `trpd envs` lists the environments that come with this package.
    - `trpd envs --textarena` lists every game of TextArena, for how many players it is and whether it works here.
    - `trpd envs --benchmarks` lists BabyAI, ScienceWorld, BFCL and others, and how to install what they need.
    - `trpd envs --card Courier-v0` plays 200 episodes at random, with the expert, and with the expert after one,
      two and four random legal actions: where its success falls, mistakes last.
    - `trpd envs --card path/file.py:Class --env-arg rooms=5 -n 500` does so with an environment of your own.
    """
    if card is not None:
        if textarena or benchmarks:
            listing = "--textarena" if textarena else "--benchmarks"
            raise UserError(f"--card and {listing}: one of them wanted; --card textarena/NAME measures a game")
        return _show_card(env_spec(card, env_arg), episodes or 200, max_turns)
    options = {"--episodes": episodes, "--env-arg": env_arg, "--max-turns": max_turns}
    if given := [option for option, value in options.items() if value]:
        raise UserError(f"{given[0]} is for --card; name an environment with --card ID")
    from trpd_agents.cli.show import show_table
    from trpd_agents.textenv.benchmarks.listing import benchmark_rows

    if benchmarks:
        return show_table(benchmark_rows())
    from trpd_agents.textenv import list_envs, textarena_games

    entries = [entry for entry in list_envs() if entry.id.startswith("textarena/") is textarena]
    rows = [
        {
            "id": entry.id,
            **({"status": entry.status, "players": entry.players or "-"} if textarena else {}),
            "success": entry.success or "-",
            "turns": str(entry.horizon or "-"),
            "tools": ", ".join(entry.tools) or "-",
            "expert": "yes" if entry.expert else "-",
            "note": entry.note,
        }
        for entry in entries
    ]
    show_table(rows)
    if textarena and (installed := textarena_games.other_version()):
        measured = textarena_games.measured_version()
        typer.echo(f"note: measured with textarena {measured}; {installed} is installed and may differ", err=True)


def _show_card(spec: EnvSpec, episodes: int, max_turns: int | None) -> None:
    from trpd_agents.cli.show import interval, show_table
    from trpd_agents.errors import EnvironmentFailure
    from trpd_agents.evaluation.card import measure_card
    from trpd_agents.progress import Progress

    try:
        card = measure_card(spec, episodes, max_turns=max_turns, progress=Progress())
    except EnvironmentFailure as failure:
        raise UserError(f"{failure.message} ({failure.kind})") from failure
    rows = [
        {
            "play": play,
            "success [95 %]": interval(*rate.success) if rate.episodes else "-",
            "turns": f"{rate.turns:.1f}",
            "episodes": str(rate.episodes),
        }
        for play, rate in card.rates.items()
    ]
    show_table(rows)
    for note in card.notes:
        print(note)
    for kind, count in card.faults.items():
        print(f"{count} episodes are in no rate, for a fault of the environment: {kind}")
