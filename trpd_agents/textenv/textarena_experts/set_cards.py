"""Set: the sets among the cards on the table."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert, legal_with


def optimal(game: Any) -> list[str]:
    """Every set on the table; where there is none any three cards, which makes the game deal more."""
    sets = [three for three in _threes(game) if _is_set(_cards(game, three))]
    return [_choice(three) for three in sets] or legal(game)


def _is_set(cards: list[tuple[str, ...]]) -> bool:
    """In every property all three are alike, or all differ."""
    return all(len(set(values)) != 2 for values in zip(*cards, strict=True))


def legal(game: Any) -> list[str]:
    """Every three different cards on the table."""
    return legal_with([], [_choice(three) for three in _threes(game)])


def _threes(game: Any) -> list[tuple[int, ...]]:
    return list(combinations(range(len(game.state.game_state["board"])), 3))


def _cards(game: Any, three: tuple[int, ...]) -> list[tuple[str, ...]]:
    return [game.state.game_state["board"][number] for number in three]


def _choice(three: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(number + 1) for number in three) + "]"


EXPERT = Expert(optimal, legal)
