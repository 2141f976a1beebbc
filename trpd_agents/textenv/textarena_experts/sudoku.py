"""Sudoku: the puzzles have one solution, which can be worked out from the clues."""

from __future__ import annotations

from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert


def solution(game: Any) -> list[str]:
    """The right digit of every empty cell, in any order; the game accepts nothing else."""
    board = game.state.game_state["board"]
    empty = [(row, column) for row in range(9) for column in range(9) if not board[row][column]]
    return [f"[{row + 1} {column + 1} {game.full_grid[row][column]}]" for row, column in empty]


EXPERT = Expert(solution, solution)
