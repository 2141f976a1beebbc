"""FrozenLake: shortest ways around the holes, which the board shows."""

from __future__ import annotations

from collections import deque
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert

_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def optimal(game: Any) -> list[str]:
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


def legal(game: Any) -> list[str]:
    """Every move that stays on the board."""
    state = game.state.game_state
    return [f"[{name}]" for name in _around(state["grid"], tuple(state["player_pos"]))]


def _around(grid: list[list[str]], place: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """The places next to `place` on the board, by the move that leads there."""
    beside = {name: (place[0] + down, place[1] + right) for name, (down, right) in _MOVES.items()}
    return {name: there for name, there in beside.items() if 0 <= min(there) and max(there) < len(grid)}


EXPERT = Expert(optimal, legal)
