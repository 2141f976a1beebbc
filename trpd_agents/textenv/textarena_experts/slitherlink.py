"""Slitherlink: textarena hides a rectangle only, so the expert draws the nearest one that agrees with the clues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert

Edge = tuple[str, int, int]


def optimal(game: Any) -> list[str]:
    """Every edge in which the board differs from a nearest rectangle that agrees with all clues."""
    drawn = {("h", *edge) for edge in game.h_edges} | {("v", *edge) for edge in game.v_edges}
    differences = [drawn ^ loop for loop in _rectangles(game.R, game.C) if _agrees(loop, game.clues)]
    fewest = min(map(len, differences), default=0)
    wanted = {edge for difference in differences if len(difference) == fewest for edge in difference}
    return [_toggle(edge) for edge in sorted(wanted)]


def legal(game: Any) -> list[str]:
    """Every edge of the board."""
    horizontal = [("h", row, column) for row in range(game.R + 1) for column in range(game.C)]
    vertical = [("v", row, column) for row in range(game.R) for column in range(game.C + 1)]
    return [_toggle(edge) for edge in horizontal + vertical]


def _toggle(edge: Edge) -> str:
    return "[{} {} {}]".format(*edge)


def _rectangles(rows: int, columns: int) -> Iterator[set[Edge]]:
    for top, bottom in combinations(range(rows + 1), 2):
        for left, right in combinations(range(columns + 1), 2):
            across = {("h", row, column) for row in (top, bottom) for column in range(left, right)}
            yield across | {("v", row, column) for row in range(top, bottom) for column in (left, right)}


def _agrees(loop: set[Edge], clues: list[list[int | None]]) -> bool:
    for row, line in enumerate(clues):
        for column, clue in enumerate(line):
            sides = {("h", row, column), ("h", row + 1, column), ("v", row, column), ("v", row, column + 1)}
            if clue is not None and len(sides & loop) != clue:
                return False
    return True


EXPERT = Expert(optimal, legal)
