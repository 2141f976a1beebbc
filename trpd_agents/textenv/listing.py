"""What there is to choose from: the bundled environments and textarena's single-player games."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from trpd_agents.textenv.resolve import NAMESPACE, TEXTARENA, bundled_ids, make
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_games import (
    GAMES,
    NEEDS_DATA,
    SEED_HAS_NO_EFFECT,
    SUCCESS_REWARD,
    base_name,
)


@dataclass(frozen=True)
class EnvInfo:
    """One line of `trpd envs`. `horizon` is the most turns of an episode by default, None when unknown."""

    id: str
    success: str
    horizon: int | None
    tools: tuple[str, ...]
    expert: bool
    note: str = ""


def list_envs() -> list[EnvInfo]:
    """The bundled environments, then textarena's games, in the order of their tables. Does not import textarena."""
    bundled = [env_id for env_id in bundled_ids() if not env_id.endswith(("-easy-v0", "-hard-v0"))]
    return [*map(_bundled, bundled), *map(_textarena, GAMES), *map(_needs_data, NEEDS_DATA)]


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


def _textarena(game: str) -> EnvInfo:
    base = base_name(game)
    note = "the seed has no effect: every episode is the same instance" if base in SEED_HAS_NO_EFFECT else ""
    threshold = SUCCESS_REWARD.get(base, 1.0)
    success = f"final reward {'is 1' if threshold == 1.0 else f'at least {threshold:g}'}"
    return EnvInfo(TEXTARENA + game, success, GAMES[game], (), base in EXPERTS, note)


def _needs_data(game: str) -> EnvInfo:
    return EnvInfo(
        TEXTARENA + game, "final reward is 1", None, (), False, "needs the NLTK data 'words' (not downloaded)"
    )
