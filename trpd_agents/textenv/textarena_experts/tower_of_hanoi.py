"""TowerOfHanoi: from any position there is one shortest way, found without search."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert

_PEGS = "ABC"


def optimal(game: Any) -> list[str]:
    """The move that begins the shortest way.

    The largest disk that is not where it belongs has to move there, for which all smaller ones belong on the third
    peg; of the disks that are misplaced in this sense, the smallest moves first.
    """
    towers = game.state.game_state["towers"]
    peg_of = {disk: peg for peg in _PEGS for disk in towers[peg]}
    move, belongs = None, "C"
    for disk in sorted(peg_of, reverse=True):
        peg = peg_of[disk]
        if peg != belongs:
            move = f"[{peg} {belongs}]"
            (belongs,) = set(_PEGS) - {peg, belongs}
    return [move] if move else []


def legal(game: Any) -> list[str]:
    """Every move of a top disk onto an empty peg or a larger disk."""
    tops = {peg: disks[-1] if disks else float("inf") for peg, disks in game.state.game_state["towers"].items()}
    return [f"[{a} {b}]" for a, b in permutations(_PEGS, 2) if tops[a] < tops[b]]


EXPERT = Expert(optimal, legal)
