"""GuessTheNumber: binary search."""

from __future__ import annotations

from itertools import islice
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import MOST_LEGAL, Expert


def optimal(game: Any) -> list[str]:
    """Halve what the hints leave; of an even number both middles."""
    low, high = game.min_number, game.max_number
    for guess, hint in game.state.game_state["guess_history"]:
        if hint == "higher":
            low = max(low, guess + 1)
        else:
            high = min(high, guess - 1)
    return [f"[{number}]" for number in sorted({(low + high) // 2, (low + high + 1) // 2})] if low <= high else []


def legal(game: Any) -> list[str]:
    """Every number of the range that was not guessed yet, up to `MOST_LEGAL`."""
    numbers = (n for n in range(game.min_number, game.max_number + 1) if n not in game.guessed_numbers)
    return [f"[{number}]" for number in islice(numbers, MOST_LEGAL)]


EXPERT = Expert(optimal, legal)
