"""What a solver of a textarena game is.

Solvers read the game object but only what its player could know or deduce, and start afresh from the present state at
every call, so they can take over after anyone else's moves. They do not look at the turns that are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_LEGAL = 1000  # actions that are listed as legal at most
MOST_STATES = 200_000  # that a search visits; a larger game has no expert


@dataclass(frozen=True)
class Expert:
    """A solver: every action that is optimal in the game's present state, its own first, and every action allowed."""

    optimal: Callable[[Any], list[str]]
    legal: Callable[[Any], list[str]]


def legal_with(optimal: list[str], others: list[str]) -> list[str]:
    """`others` after the optimal ones, each once, up to `MOST_LEGAL`."""
    return list(dict.fromkeys([*optimal, *others]))[:MOST_LEGAL]
