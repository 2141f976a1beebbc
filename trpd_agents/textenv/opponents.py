"""Legal moves in textarena's two-player board games, each a function of the game in progress.

Every text listed is accepted by the game for the player whose turn it is; where a list is a part of what the rules
allow, the docstring says so. The functions read and never write, and draw no random numbers. An empty list means that
the player cannot move: textarena waits for ever then in some games, which is a draw here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

Board = list[list[str]]
_AROUND = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def tic_tac_toe(game: Any) -> list[str]:
    return [f"[{cell}]" for cell in _empty(_board(game))]


def wild_tic_tac_toe(game: Any) -> list[str]:
    return [f"[{mark} {cell}]" for cell in _empty(_board(game)) for mark in "XO"]


def quantum_tic_tac_toe(game: Any) -> list[str]:
    """Two different cells that are not settled yet."""
    return [f"[{a},{b}]" for a, b in combinations(_empty(_board(game)), 2)]


def ultimate_tic_tac_toe(game: Any) -> list[str]:
    """Cells of the board that the last move points to, or of any board that is still open."""
    state = game.state.game_state
    only = state["next_micro_board"]
    open_boards = [i for i in range(9) if state["macro_board"][i // 3][i % 3] == " "] if only is None else [only]
    return [f"[{i} {cell}]" for i in open_boards for cell in _empty(state["board"][i], " ")]


def simple_tak(game: Any) -> list[str]:
    return [f"[{cell}]" for cell in _empty(_board(game))]


def nim(game: Any) -> list[str]:
    piles = game.state.game_state["piles"]
    return [f"[{i} {take}]" for i, pile in enumerate(piles) for take in range(1, pile + 1)]


def connect_four(game: Any) -> list[str]:
    return [f"[col {column}]" for column, top in enumerate(_board(game)[0]) if top == "."]


def othello(game: Any) -> list[str]:
    """Where something is flipped; without such a place any text passes, as the one listed here does."""
    piece = "B" if game.state.current_player_id == 0 else "W"
    return [f"[{row}, {column}]" for row, column in game._valid_moves(piece)] or ["[skip]"]


def breakthrough(game: Any) -> list[str]:
    size, seat = game.board_size, game.state.current_player_id
    ahead = 1 if seat == 0 else -1
    return [
        f"[{chr(97 + column)}{row + 1}{chr(97 + to)}{row + ahead + 1}]"
        for row in range(size)
        for column in range(size)
        for to in (column - 1, column, column + 1)
        if 0 <= row + ahead < size and 0 <= to < size and game._is_valid_move(seat, row, column, row + ahead, to)
    ]


def alquerque(game: Any) -> list[str]:
    """One step ahead to a free point, or a jump over an enemy to the free point behind it."""
    board, seat = _board(game), game.state.current_player_id
    piece, enemy = ("R", "B") if seat == 0 else ("B", "R")
    ahead = set(game.forward_dirs[seat])
    moves = []
    for row, column in _places(board, piece):
        for down, right in _AROUND:
            beside, behind = (row + down, column + right), (row + 2 * down, column + 2 * right)
            if (down, right) in ahead and _at(board, beside) == "":
                moves.append((row, column, *beside))
            if _at(board, beside) == enemy and _at(board, behind) == "":
                moves.append((row, column, *behind))
    return [f"[{5 * a + b} {5 * c + d}]" for a, b, c, d in moves]


def lines_of_action(game: Any) -> list[str]:
    """As many squares along a line as there are pieces on it, over one's own pieces but not over the other's."""
    board = _board(game)
    own, enemy = ("O", "X") if game.state.current_player_id == 0 else ("X", "O")
    moves = []
    for row, column in _places(board, own):
        for down, right in _AROUND:
            far = game._count_pieces_on_line(row, column, down, right)
            way = [(row + k * down, column + k * right) for k in range(1, far + 1)]
            if _at(board, way[-1]) in ("", enemy) and all(_at(board, place) != enemy for place in way[:-1]):
                moves.append(game.rc_to_coord(row, column) + game.rc_to_coord(*way[-1]))
    return [f"[{move}]" for move in moves]


def battleship(game: Any) -> list[str]:
    """Squares that this player has not fired at."""
    tracking = game.state.game_state["tracking_board"][game.state.current_player_id]
    return [f"[{chr(65 + row)}{column}]" for row, column in _places(tracking, "~")]


def memory_game(game: Any) -> list[str]:
    """Any two cards that are still face down."""
    found, size = game.state.game_state["matched_positions"], game.grid_size
    hidden = [(row, column) for row in range(size) for column in range(size) if (row, column) not in found]
    return [f"[{a} {b} {c} {d}]" for (a, b), (c, d) in combinations(hidden, 2)]


def chopsticks(game: Any) -> list[str]:
    """Attacks, and splits that leave at most four fingers on a hand."""
    hands, seat = game.state.game_state["hands"], game.state.current_player_id
    own, other = hands[seat], hands[1 - seat]
    attacks = [f"[attack {m} {o}]" for m in (0, 1) for o in (0, 1) if own[m] and other[o]]
    total = sum(own)
    splits = [(left, total - left) for left in range(5) if 0 <= total - left <= 4 and [left, total - left] != own]
    return attacks + [f"[split {left} {right}]" for left, right in splits]


BOARD_GAMES: dict[str, Callable[[Any], list[str]]] = {
    "Alquerque": alquerque,
    "Battleship": battleship,
    "Breakthrough": breakthrough,
    "Chopsticks": chopsticks,
    "ConnectFour": connect_four,
    "LinesOfAction": lines_of_action,
    "MemoryGame": memory_game,
    "Nim": nim,
    "Othello": othello,
    "QuantumTicTacToe": quantum_tic_tac_toe,
    "SimpleTak": simple_tak,
    "TicTacToe": tic_tac_toe,
    "UltimateTicTacToe": ultimate_tic_tac_toe,
    "WildTicTacToe": wild_tic_tac_toe,
}


def _board(game: Any) -> Board:
    return game.state.game_state["board"]


def _empty(board: Board, blank: str = "") -> list[int]:
    """Numbers of the free cells, row by row."""
    return [row * len(board) + column for row, column in _places(board, blank)]


def _places(board: Board, piece: str) -> Iterator[tuple[int, int]]:
    for row, cells in enumerate(board):
        for column, cell in enumerate(cells):
            if cell == piece:
                yield row, column


def _at(board: Board, place: tuple[int, int]) -> str | None:
    """What lies on a place; None beside the board."""
    row, column = place
    return board[row][column] if 0 <= row < len(board) and 0 <= column < len(board) else None
