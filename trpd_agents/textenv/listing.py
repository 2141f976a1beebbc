"""What there is to choose from: the bundled environments and textarena's games."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from trpd_agents.textenv.resolve import NAMESPACE, TEXTARENA, bundled_ids, make
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_games import PLAYS, SUCCESS_REWARD, Game, base_name, table
from trpd_agents.textenv.two_player_experts import SCRIPTED


@dataclass(frozen=True)
class EnvInfo:
    """One line of `trpd envs`. `horizon` is the most turns of an episode by default, None when unknown.

    `status`: whether it can be played here. `players`: how many it takes, e.g. "2" or "2-4", "" when unknown.
    """

    id: str
    success: str
    horizon: int | None
    tools: tuple[str, ...]
    expert: bool
    note: str = ""
    status: str = PLAYS
    players: str = "1"


def list_envs() -> list[EnvInfo]:
    """The bundled environments, then textarena's games, in the order of their tables. Does not import textarena."""
    bundled = [env_id for env_id in bundled_ids() if not env_id.endswith(("-easy-v0", "-hard-v0"))]
    return [*map(_bundled, bundled), *map(_textarena, table().values())]


def _bundled(env_id: str) -> EnvInfo:
    env = make(env_id)
    try:
        names = tuple(tool.get("function", tool)["name"] for tool in env.tools)
        module = inspect.getmodule(type(env.env.unwrapped))
        return EnvInfo(
            env_id.removeprefix(f"{NAMESPACE}/"), _success(module.__doc__ or ""), env.max_turns, names, env.has_expert
        )
    finally:
        env.close()


def _success(docstring: str) -> str:
    """The sentence that follows "Success:" in an environment's docstring."""
    found = re.search(r"Success: (.*?)[.;](?:\s|$)", docstring, re.DOTALL)
    return " ".join(found[1].split()) if found else "info['success']"


def _textarena(game: Game) -> EnvInfo:
    base, (fewest, most) = base_name(game.id), game.players or (0, 0)
    plays = game.status == PLAYS
    threshold = SUCCESS_REWARD.get(base, 1.0)
    alone = f"final reward {'is 1' if threshold == 1.0 else f'at least {threshold:g}'}"
    success = {1: alone, 2: "the match is won"}.get(fewest, "") if plays else ""
    players = "" if not fewest else str(fewest) if fewest == most else f"{fewest}-{most}"
    expert = plays and base in (EXPERTS if fewest == 1 else SCRIPTED)
    return EnvInfo(
        TEXTARENA + game.id, success, game.turns if plays else None, (), expert, game.note, game.status, players
    )
