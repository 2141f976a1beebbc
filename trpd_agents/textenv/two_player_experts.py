"""Scripted players of textarena's two-player games: perfect in TicTacToe and Nim, strong in ConnectFour, sound in a few
games of chance.

Each is a function of the game in progress that lists every move it holds for equally good, its own first, for the
player whose turn it is; it knows only what that player could know. No position is given up as lost: the other side may
err.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from operator import xor
from typing import Any

from trpd_agents.textenv.two_player_connect_four import best_columns

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
_DISCOUNT = 0.99  # a move: of two wins the sooner one
_HOLD_AT = 20  # points of one turn: the classical rule for Pig, within a percent of optimal play


def tic_tac_toe(game: Any) -> list[str]:
    """Perfect play: the moves with the best result against perfect replies, and of those the ones that win most often
    against random replies, or soonest."""
    board = game.state.game_state["board"]
    own = "X" if game.state.current_player_id == 1 else "O"
    cells = tuple({"": 0, own: 1}.get(cell, -1) for row in board for cell in row)
    values = {cell: _after(cells, cell) for cell in _free(cells)}
    best = max(values.values())
    return [f"[{cell}]" for cell, value in values.items() if value == best]


def _free(cells: tuple[int, ...]) -> list[int]:
    return [k for k, mark in enumerate(cells) if not mark]


def _after(cells: tuple[int, ...], cell: int) -> tuple[int, float]:
    """The worth, to the player with the marks 1, of marking `cell`.

    First against a perfect opponent: -1, 0 or 1; then against a random one: the expected result, discounted a little
    with every move, and rounded, so that mirrored moves are equal.
    """
    marked = (*cells[:cell], 1, *cells[cell + 1 :])
    if any(all(marked[k] == 1 for k in line) for line in _LINES):
        return 1, 1.0
    if not _free(marked):
        return 0, 0.0
    theirs = tuple(-mark for mark in marked)
    return -_worth(theirs)[0], round(_DISCOUNT * _against_random(theirs), 9)


@cache
def _worth(cells: tuple[int, ...]) -> tuple[int, float]:
    """The worth of a position, one's own move, to a player who chooses the best by both measures."""
    return max(_after(cells, cell) for cell in _free(cells))


@cache
def _against_random(theirs: tuple[int, ...]) -> float:
    """The expected result for us where a random opponent, whose marks are 1, is to move."""
    total = 0.0
    replies = _free(theirs)
    for reply in replies:
        marked = (*theirs[:reply], 1, *theirs[reply + 1 :])
        if any(all(marked[k] == 1 for k in line) for line in _LINES):
            total -= 1
        elif _free(marked):
            total += _worth(tuple(-mark for mark in marked))[1]
    return total / len(replies)


def nim(game: Any) -> list[str]:
    """Perfect play: leave piles whose numbers have the binary sum 0 without carry (Bouton, "Nim, a game with a complete
    mathematical theory", 1901). Where that is not possible every move loses against perfect play; those that take one
    object leave the most to go wrong."""
    piles = game.state.game_state["piles"]
    nim_sum = reduce(xor, piles)
    if not nim_sum:
        return [f"[{i} 1]" for i, pile in enumerate(piles) if pile]
    return [f"[{i} {pile - (pile ^ nim_sum)}]" for i, pile in enumerate(piles) if pile ^ nim_sum < pile]


def connect_four(game: Any) -> list[str]:
    """The best columns by a search of a few moves ahead."""
    own = "X" if game.state.current_player_id == 0 else "O"
    return [f"[col {column}]" for column in best_columns(game.state.game_state["board"], own)]


def pig_dice(game: Any) -> list[str]:
    """Hold at 20 points, or with enough to win."""
    state = game.state.game_state
    gained, score = state["turn_total"], state["scores"][game.state.current_player_id]
    return ["[hold]"] if gained >= _HOLD_AT or score + gained >= game.winning_score else ["[roll]"]


def kuhn_poker(game: Any) -> list[str]:
    """Bet and call with any card: textarena takes no chips for either, so only a fold can lose what a showdown would
    not."""
    return ["[call]"] if "call" in game.state.game_state["current_legal_action_tree"] else ["[bet]"]


def prisoners_dilemma(game: Any) -> list[str]:
    """Defection never ends with fewer points than the other side."""
    return ["[Defect]"] if game.state.game_state["phase"] == "decision" else ["Hello."]


SCRIPTED: dict[str, Callable[[Any], list[str]]] = {
    "ConnectFour": connect_four,
    "IteratedPrisonersDilemma": prisoners_dilemma,
    "KuhnPoker": kuhn_poker,
    "Nim": nim,
    "PigDice": pig_dice,
    "TicTacToe": tic_tac_toe,
}
