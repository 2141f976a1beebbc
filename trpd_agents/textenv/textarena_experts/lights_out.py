"""LightsOut: linear equations over two elements; the shortest of the solutions, which all are sets of buttons."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert

_MOST_QUIET = 12  # independent patterns that change nothing; boards with more are not solved in the fewest presses


def optimal(game: Any) -> list[str]:
    """Every press that is part of a shortest solution."""
    grid = game.state.game_state["grid"]
    size = len(grid)
    lit = sum(1 << row * size + column for row in range(size) for column in range(size) if grid[row][column])
    inverse, quiet = _elimination(size)
    solution = 0
    for presses, lights in inverse:
        if (lights & lit).bit_count() % 2:
            solution ^= presses
    solutions = [solution]
    for pattern in quiet[:_MOST_QUIET]:
        solutions += [other ^ pattern for other in solutions]
    fewest = min(other.bit_count() for other in solutions)
    wanted = {n for other in solutions if other.bit_count() == fewest for n in range(size**2) if other >> n & 1}
    return [_press(number, size) for number in sorted(wanted)]


def legal(game: Any) -> list[str]:
    """Every button."""
    return [_press(number, game.size) for number in range(game.size**2)]


def _press(number: int, size: int) -> str:
    return f"[{number // size} {number % size}]"


@lru_cache(maxsize=8)
def _elimination(size: int) -> tuple[list[tuple[int, int]], list[int]]:
    """How to press: pairs (button, lights: press it if an odd number of them is lit); and presses without effect.

    Numbers are sets of bits, one for each place of the board. Every board that presses have made can be solved.
    """
    places = range(size**2)
    # A row: which buttons switch a light, and which lights were added up to make this row.
    rows = [(_neighbours(place, size), 1 << place) for place in places]
    pivots: list[tuple[int, int, int]] = []  # button, buttons of its row, lights
    for button in places:
        found = next((n for n, (buttons, _) in enumerate(rows) if buttons >> button & 1), None)
        if found is None:
            continue
        buttons, lights = rows.pop(found)
        rows = [(b ^ buttons, a ^ lights) if b >> button & 1 else (b, a) for b, a in rows]
        pivots = [(p, b ^ buttons, a ^ lights) if b >> button & 1 else (p, b, a) for p, b, a in pivots]
        pivots.append((button, buttons, lights))
    free = set(places) - {button for button, _, _ in pivots}
    quiet = [(1 << f) | sum(1 << button for button, buttons, _ in pivots if buttons >> f & 1) for f in sorted(free)]
    return [(1 << button, lights) for button, _, lights in pivots], quiet


def _neighbours(place: int, size: int) -> int:
    row, column = divmod(place, size)
    beside = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return sum(1 << r * size + c for r, c in beside if 0 <= r < size and 0 <= c < size)


EXPERT = Expert(optimal, legal)
