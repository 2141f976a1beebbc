"""`trpd envs`: what there is to play."""

from __future__ import annotations

from typing import Annotated

import typer


def envs(
    textarena: Annotated[bool, typer.Option("--textarena", help="List the TextArena games instead.")] = False,
) -> None:
    """List environments: what counts as success, the most turns of an episode, their tools, and if an expert exists.

    Each of those that come with this package has two more difficulties: Courier-easy-v0 and Courier-hard-v0, say.

    Any other Gymnasium environment with text observations and actions can be played too: as `module:Id-v0`, or as
    `path/file.py:Class`.

    Examples:

    - `trpd envs` lists the environments that come with this package.
    - `trpd envs --textarena` lists TextArena's single-player games.
    """
    from trpd_agents.cli.show import show_table
    from trpd_agents.textenv import list_envs

    entries = [entry for entry in list_envs() if entry.id.startswith("textarena/") is textarena]
    rows = [
        {
            "id": entry.id,
            "success": entry.success,
            "turns": str(entry.horizon or "-"),
            "tools": ", ".join(entry.tools) or "-",
            "expert": "yes" if entry.expert else "-",
            "note": entry.note,
        }
        for entry in entries
    ]
    show_table(rows)
