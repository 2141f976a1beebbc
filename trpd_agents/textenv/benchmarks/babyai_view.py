"""What a BabyAI agent sees, in words, from where it stands and looks.

Invariant: the text is a function of the 7 x 7 cells that the agent sees, minus those hidden from it, and of what it
carries: it holds nothing that the symbolic observation of the level does not. Distances are in steps; a cell is
`(side, ahead)`, with negative sides to the left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_DOOR_STATES = {(True, False): "open", (False, False): "closed", (False, True): "locked"}
_LOOKS = {"ahead": (0, 1), "to the left": (-1, 0), "to the right": (1, 0)}


def describe(level: Any) -> str:
    """The view of a minigrid level's agent: what is straight ahead, left and right, all things seen, the hands."""
    seen = _seen_cells(level)
    lines = [_along(direction, step, seen) for direction, step in _LOOKS.items()]
    things = sorted(
        (ahead + abs(side), abs(side), side, name(cell))
        for (side, ahead), cell in seen.items()
        if cell is not None and cell.type not in ("wall", "floor")
    )
    lines.append("You see:" if things else "You see no objects.")
    lines += [f"- {thing}, {_where(side, distance - abs(side))}" for distance, _, side, thing in things]
    lines.append(f"You carry {name(level.carrying)}." if level.carrying else "You carry nothing.")
    return "\n".join(lines)


def name(thing: Any) -> str:
    """`a red ball`, `a locked grey door`, `a wall`."""
    if thing.type == "wall":
        return "a wall"
    words = f"{thing.color} {thing.type}"
    if thing.type == "door":
        words = f"{_DOOR_STATES[bool(thing.is_open), bool(thing.is_locked)]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _seen_cells(level: Any) -> dict[tuple[int, int], Any]:
    """The visible cells without the agent's own, as `(side, ahead)` to what is in them (None: free floor)."""
    grid, visible = level.gen_obs_grid()
    middle, last = grid.width // 2, grid.height - 1  # the agent stands in the middle of the last row, facing the first
    return {
        (i - middle, last - j): grid.get(i, j)
        for i in range(grid.width)
        for j in range(grid.height)
        if visible[i, j] and (i, j) != (middle, last)
    }


def _along(direction: str, step: tuple[int, int], seen: dict[tuple[int, int], Any]) -> str:
    """How far the way is free in a straight line, and what then blocks it. An open door does not."""
    free = 0
    end = "then out of sight"
    for cell in _line(step, seen):
        if cell is not None and not cell.can_overlap():
            end = f"then {name(cell)}"
            break
        free += 1
    if not free:
        return f"Directly {direction}: {end.removeprefix('then ')}."
    return f"Free {direction}: {_steps(free)}, {end}."


def _line(step: tuple[int, int], seen: dict[tuple[int, int], Any]) -> Iterator[Any]:
    side, ahead = step
    while (side, ahead) in seen:
        yield seen[side, ahead]
        side, ahead = side + step[0], ahead + step[1]


def _where(side: int, ahead: int) -> str:
    parts = [f"{_steps(ahead)} ahead"] if ahead else []
    if side:
        parts.append(f"{_steps(abs(side))} to the {'left' if side < 0 else 'right'}")
    return " and ".join(parts)


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number} steps"
