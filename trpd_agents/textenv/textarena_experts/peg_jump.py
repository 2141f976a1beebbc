"""PegJump: every jump after which one peg can still be reached."""

from __future__ import annotations

from functools import cache
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert

Jumps = tuple[tuple[int, int, int], ...]


def optimal(game: Any) -> list[str]:
    """Every jump that leaves a solvable board; all solutions are equally long."""
    board, jumps = _board(game)
    return [f"[{a} {c}]" for a, b, c in _possible(board, jumps) if _solvable(_after(board, a, b, c), jumps)]


def legal(game: Any) -> list[str]:
    board, jumps = _board(game)
    return [f"[{a} {c}]" for a, _, c in _possible(board, jumps)]


def _board(game: Any) -> tuple[int, Jumps]:
    pegs = game.state.game_state["board"]
    return sum(1 << hole for hole, peg in enumerate(pegs) if peg), tuple(game.ALLOWED_MOVES)


def _possible(board: int, jumps: Jumps) -> Jumps:
    return tuple((a, b, c) for a, b, c in jumps if board >> a & 1 and board >> b & 1 and not board >> c & 1)


def _after(board: int, a: int, b: int, c: int) -> int:
    return board ^ (1 << a | 1 << b | 1 << c)


@cache
def _solvable(board: int, jumps: Jumps) -> bool:
    if board.bit_count() == 1:
        return True
    return any(_solvable(_after(board, *jump), jumps) for jump in _possible(board, jumps))


EXPERT = Expert(optimal, legal)
