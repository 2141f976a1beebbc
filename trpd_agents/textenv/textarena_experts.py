"""Scripted solvers for three textarena games, each two functions of the game in progress.

They read the game object but only what its player could know, FrozenLake's board included, and start afresh from the
present state at every call, so they can take over after anyone else's moves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, permutations, product
from typing import Any

MOST_LEGAL = 1000  # actions that are listed as legal at most

_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


@dataclass(frozen=True)
class Expert:
    """A solver: every action that is optimal in the game's present state, its own first, and every action allowed."""

    optimal: Callable[[Any], list[str]]
    legal: Callable[[Any], list[str]]


def guess_the_number(game: Any) -> list[str]:
    """Halve what the hints leave; of an even number both middles."""
    low, high = game.min_number, game.max_number
    for guess, hint in game.state.game_state["guess_history"]:
        if hint == "higher":
            low = max(low, guess + 1)
        else:
            high = min(high, guess - 1)
    return [f"[{number}]" for number in sorted({(low + high) // 2, (low + high + 1) // 2})] if low <= high else []


def numbers_left(game: Any) -> list[str]:
    """Every number of the range that was not guessed yet, up to `MOST_LEGAL`."""
    numbers = (n for n in range(game.min_number, game.max_number + 1) if n not in game.guessed_numbers)
    return [f"[{number}]" for number in islice(numbers, MOST_LEGAL)]


def mastermind(game: Any) -> list[str]:
    """The first code, in lexical order, that agrees with every answer so far."""
    state = game.state.game_state
    history = [(entry["guess"], entry["black"], entry["white"]) for entry in state["history"]]
    code = _first_consistent([], state["code_length"], state["num_numbers"], state["duplicate_numbers"], history)
    return [] if code is None else [_code(code)]


def codes_left(game: Any) -> list[str]:
    """Every code that was not tried yet; none where there are more than `MOST_LEGAL`, which is no longer a choice."""
    state = game.state.game_state
    digits, length = range(1, state["num_numbers"] + 1), state["code_length"]
    codes = product(digits, repeat=length) if state["duplicate_numbers"] else permutations(digits, length)
    tried = {tuple(entry["guess"]) for entry in state["history"]}
    listed = list(islice(codes, MOST_LEGAL + 1))
    return [_code(code) for code in listed if code not in tried] if len(listed) <= MOST_LEGAL else []


def frozen_lake(game: Any) -> list[str]:
    """Every move that begins a shortest way to the goal around the holes."""
    state = game.state.game_state
    grid, start, goal = state["grid"], tuple(state["player_pos"]), tuple(state["goal_pos"])
    distances = {goal: 0}
    queue = deque([goal])
    while queue:
        place = queue.popleft()
        for there in _around(grid, place).values():
            if grid[there[0]][there[1]] != "H" and there not in distances:
                distances[there] = distances[place] + 1
                queue.append(there)
    if not distances.get(start):
        return []
    nearer = distances[start] - 1
    return [f"[{name}]" for name, there in _around(grid, start).items() if distances.get(there) == nearer]


def steps_on_the_lake(game: Any) -> list[str]:
    """Every move that stays on the board."""
    state = game.state.game_state
    return [f"[{name}]" for name in _around(state["grid"], tuple(state["player_pos"]))]


EXPERTS: dict[str, Expert] = {
    "FrozenLake": Expert(frozen_lake, steps_on_the_lake),
    "GuessTheNumber": Expert(guess_the_number, numbers_left),
    "Mastermind": Expert(mastermind, codes_left),
}


def _around(grid: list[list[str]], place: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """The places next to `place` on the board, by the move that leads there."""
    beside = {name: (place[0] + down, place[1] + right) for name, (down, right) in _MOVES.items()}
    return {name: there for name, there in beside.items() if 0 <= min(there) and max(there) < len(grid)}


def _code(code: Iterable[int]) -> str:
    return "[" + " ".join(map(str, code)) + "]"


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
