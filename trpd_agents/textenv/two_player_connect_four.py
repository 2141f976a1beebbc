"""Connect Four on a board of any size: which columns are best by alpha-beta search of a few moves ahead.

A position is two integers with a bit per cell, one for each side, so that four in a row are three shifts. The search
sees every win and loss within its depth; beyond that it prefers cells through which many lines of four still pass.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

_DEPTH = 5  # moves of both sides that are looked ahead: about 10 ms on the usual board
_DEPTH_ON_WIDE = 3  # and 25 ms with 15 columns
_USUAL = 9  # columns
_WIN = 10_000


class _Grid(NamedTuple):
    """A board's measures. Cell (column, height) is bit `column * tall + height`; the top bit of a column stays 0."""

    columns: int
    rows: int
    order: tuple[int, ...]  # columns, the middle ones first: good moves early make the search short
    lines: tuple[int, ...]  # every line of four as a mask

    @property
    def tall(self) -> int:
        return self.rows + 1


@cache
def _grid(rows: int, columns: int) -> _Grid:
    def bit(column: int, height: int) -> int:
        return 1 << (column * (rows + 1) + height)

    lines = []
    for column in range(columns):
        for height in range(rows):
            for right, up in ((1, 0), (0, 1), (1, 1), (1, -1)):
                if column + 3 * right < columns and 0 <= height + 3 * up < rows:
                    lines.append(sum(bit(column + k * right, height + k * up) for k in range(4)))
    order = tuple(sorted(range(columns), key=lambda column: abs(2 * column - columns + 1)))
    return _Grid(columns, rows, order, tuple(lines))


def best_columns(board: list[list[str]], own: str, depth: int | None = None) -> list[int]:
    """Every column with the best outcome of the search, the middle ones first; empty on a full board.

    `board` has the top row first and "." where it is free; `own` is the mark of the side to move. A sooner win is
    better, and a later loss. `depth`, in moves, is at least 2, and by default what a few milliseconds allow.
    """
    grid = _grid(len(board), len(board[0]))
    depth = depth or (_DEPTH if grid.columns <= _USUAL else _DEPTH_ON_WIDE)
    mine = theirs = 0
    for row, cells in enumerate(board):
        for column, mark in enumerate(cells):
            bit = 1 << (column * grid.tall + grid.rows - 1 - row)
            mine |= bit if mark == own else 0
            theirs |= bit if mark not in (own, ".") else 0
    values = {}
    for column, stone in _drops(grid, mine | theirs):
        won = _four(mine | stone, grid.tall)
        values[column] = _WIN + depth if won else -_search(grid, theirs, mine | stone, depth - 1, -2 * _WIN, 2 * _WIN)
    best = max(values.values(), default=0)
    return [column for column, value in values.items() if value == best]


def _search(grid: _Grid, mine: int, theirs: int, depth: int, low: int, high: int) -> int:
    """The value of the position to the side to move, if it lies between `low` and `high`, else a bound on it."""
    drops = _drops(grid, mine | theirs)
    if not drops:
        return 0
    if any(_four(mine | stone, grid.tall) for _, stone in drops):
        return _WIN + depth
    if depth <= 1:
        return _promise(grid, mine, theirs)
    for _, stone in drops:
        value = -_search(grid, theirs, mine | stone, depth - 1, -high, -low)
        if value >= high:
            return value
        low = max(low, value)
    return low


def _drops(grid: _Grid, taken: int) -> list[tuple[int, int]]:
    """The columns that are not full, each with the cell that a stone falls into."""
    found = []
    full = (1 << grid.rows) - 1
    for column in grid.order:
        shift = column * grid.tall
        filled = taken >> shift & full
        if filled != full:
            found.append((column, (filled + 1) << shift))
    return found


def _four(stones: int, tall: int) -> bool:
    for step in (1, tall - 1, tall, tall + 1):
        pairs = stones & stones >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def _promise(grid: _Grid, mine: int, theirs: int) -> int:
    """Lines of four that only one side has stones on count for it, by the square of their number."""
    value = 0
    for line in grid.lines:
        own, other = mine & line, theirs & line
        if own and not other:
            value += own.bit_count() ** 2
        elif other and not own:
            value -= other.bit_count() ** 2
    return value
