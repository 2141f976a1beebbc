"""Sokoban: distances to the solution from every position of a room, by search backwards from the solved ones."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import MOST_STATES, Expert

Place = tuple[int, int]
Position = tuple[Place, frozenset[Place]]  # the player, the boxes

_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_WALL, _GOAL, _BOXES = 0, 2, (3, 4)  # numbers on textarena's boards


def optimal(game: Any) -> list[str]:
    """Every move that begins a shortest solution; none in a lost position, or in a room too large to search."""
    floor, goals, position = _room(game)
    distances = _distances(floor, goals)
    left = distances.get(position)
    if not left:
        return []
    after = {name: _moved(floor, position, move) for name, move in _MOVES.items()}
    return [f"[{name}]" for name, there in after.items() if there and distances.get(there) == left - 1]


def legal(game: Any) -> list[str]:
    """Every move that neither the walls nor the boxes prevent."""
    floor, _, position = _room(game)
    return [f"[{name}]" for name, move in _MOVES.items() if _moved(floor, position, move)]


def _room(game: Any) -> tuple[frozenset[Place], frozenset[Place], Position]:
    """The places without a wall, the goals, and the position."""
    fixed, now = game.room_fixed.tolist(), game.room_state.tolist()
    places = [(row, column) for row in range(len(fixed)) for column in range(len(fixed[0]))]
    floor = frozenset((row, column) for row, column in places if fixed[row][column] != _WALL)
    goals = frozenset((row, column) for row, column in places if fixed[row][column] == _GOAL)
    boxes = frozenset((row, column) for row, column in places if now[row][column] in _BOXES)
    row, column = game.player_position
    return floor, goals, ((int(row), int(column)), boxes)


def _moved(floor: frozenset[Place], position: Position, move: Place) -> Position | None:
    """The position after a step or a push; None where it is not possible."""
    (row, column), boxes = position
    there, beyond = (row + move[0], column + move[1]), (row + 2 * move[0], column + 2 * move[1])
    if there not in floor:
        return None
    if there not in boxes:
        return there, boxes
    return (there, boxes - {there} | {beyond}) if beyond in floor and beyond not in boxes else None


@lru_cache(maxsize=64)
def _distances(floor: frozenset[Place], goals: frozenset[Place]) -> dict[Position, int]:
    """Moves to the nearest solved position, from every position from which there is one."""
    distances: dict[Position, int] = {(place, goals): 0 for place in floor - goals}
    queue = deque(distances)
    while queue:
        position = queue.popleft()
        (row, column), boxes = position
        for down, right in _MOVES.values():
            before = (row - down, column - right)
            if before not in floor or before in boxes:
                continue
            ahead = (row + down, column + right)
            earlier: list[Position] = [(before, boxes)]
            if ahead in boxes:  # the last move may have pushed this box off the player's place
                earlier.append((before, boxes - {ahead} | {(row, column)}))
            for there in earlier:
                if there not in distances:
                    distances[there] = distances[position] + 1
                    queue.append(there)
        if len(distances) > MOST_STATES:
            return {}
    return distances


EXPERT = Expert(optimal, legal)
