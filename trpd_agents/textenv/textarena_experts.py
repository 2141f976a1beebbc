"""Scripted solvers for three textarena games, each a function from the game in progress to the next action.

They read the game object but only what its player could know, FrozenLake's board included, and start afresh from the
present state at every call, so they can take over after anyone else's moves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def guess_the_number(game: Any) -> str | None:
    """Halve what the hints leave."""
    low, high = game.min_number, game.max_number
    for guess, hint in game.state.game_state["guess_history"]:
        if hint == "higher":
            low = max(low, guess + 1)
        else:
            high = min(high, guess - 1)
    return f"[{(low + high) // 2}]" if low <= high else None


def mastermind(game: Any) -> str | None:
    """The first code, in lexical order, that agrees with every answer so far."""
    state = game.state.game_state
    history = [(entry["guess"], entry["black"], entry["white"]) for entry in state["history"]]
    code = _first_consistent([], state["code_length"], state["num_numbers"], state["duplicate_numbers"], history)
    return None if code is None else "[" + " ".join(map(str, code)) + "]"


def frozen_lake(game: Any) -> str | None:
    """A shortest way to the goal around the holes."""
    state = game.state.game_state
    grid, start, goal = state["grid"], tuple(state["player_pos"]), tuple(state["goal_pos"])
    first_moves: dict[tuple[int, ...], str] = {start: ""}
    queue = deque([start])
    while queue:
        place = queue.popleft()
        if place == goal:
            return f"[{first_moves[place]}]" if first_moves[place] else None
        for name, (down, right) in _MOVES.items():
            there = (place[0] + down, place[1] + right)
            inside = 0 <= there[0] < len(grid) and 0 <= there[1] < len(grid)
            if inside and grid[there[0]][there[1]] != "H" and there not in first_moves:
                first_moves[there] = first_moves[place] or name
                queue.append(there)
    return None


EXPERTS: dict[str, Callable[[Any], str | None]] = {
    "FrozenLake": frozen_lake,
    "GuessTheNumber": guess_the_number,
    "Mastermind": mastermind,
}


def _first_consistent(
    code: list[int], length: int, digits: int, repeats: bool, history: list[tuple[list[int], int, int]]
) -> list[int] | None:
    """Depth-first completion of `code`; a beginning that no ending can reconcile with an answer is dropped at once."""
    left = length - len(code)
    for guess, black, white in history:
        same_place = sum(a == b for a, b in zip(code, guess, strict=False))
        common = (Counter(code) & Counter(guess)).total()
        if not black - left <= same_place <= black or not black + white - left <= common <= black + white:
            return None
    if not left:
        return code
    for digit in range(1, digits + 1):
        if repeats or digit not in code:
            found = _first_consistent([*code, digit], length, digits, repeats, history)
            if found is not None:
                return found
    return None
