"""Which of textarena's games two play against each other, who can be the opponent, and how long they last.

Nothing here imports textarena, which takes over a second.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from trpd_agents.textenv.opponents import BOARD_GAMES
from trpd_agents.textenv.opponents_cards import CARD_GAMES
from trpd_agents.textenv.textarena_games import PLAYS, Game, base_name, table
from trpd_agents.textenv.two_player_experts import SCRIPTED

NO_LIMIT = 100  # turns of a seat in a game whose rules do not bound them

RANDOM, EXPERT, SELF = "random", "scripted", "self"
SCRIPTED_OPPONENTS = (RANDOM, EXPERT)  # anything else is a model, or the agent itself

Seat = str | int  # 0, 1 or "seed"
LEGAL_MOVES: dict[str, Callable[[Any], list[str]]] = {**BOARD_GAMES, **CARD_GAMES}

# Game -> most turns of one seat: twice the moves that the rules leave it, since every valid move can follow an invalid
# one, and two of those in a row lose. Games that count the turns of both seats end by themselves and are not listed.
_TURNS: dict[str, Callable[[Any], int]] = {
    "Alquerque": lambda game: game.MAX_MOVES,
    "Battleship": lambda game: 2 * game.grid_size**2,
    "Breakthrough": lambda game: 2 * game.board_size * (game.board_size - 1),
    "Briscola": lambda game: 40,
    "ColonelBlotto": lambda game: 2 * game.num_rounds,
    "ConnectFour": lambda game: game.num_rows * game.num_cols,
    "GameOfPureStrategy": lambda game: 26,
    "GermanWhist": lambda game: 52,
    "IteratedMatchingPennies": lambda game: 2 * game.num_rounds,
    "IteratedPrisonersDilemma": lambda game: game.num_rounds * (game.conversation_rounds + 1),
    "IteratedRockPaperScissors": lambda game: 2 * game.num_rounds,
    "KuhnPoker": lambda game: 4 * game.max_rounds,
    "LinesOfAction": lambda game: 2 * NO_LIMIT,
    "Nim": lambda game: sum(game.initial_piles),
    "Othello": lambda game: game.N**2 - 4,
    "QuantumTicTacToe": lambda game: 20,
    "SimpleTak": lambda game: game.board_size**2,
    "TicTacToe": lambda game: 10,
    "UltimateTicTacToe": lambda game: 82,
    "WildTicTacToe": lambda game: 10,
}


def two_player() -> dict[str, Game]:
    """The games that need at least two players and take exactly two, offline."""
    return {name: game for name, game in table().items() if _for_two(game)}


def is_for_two(name: str) -> bool:
    """Whether `name` is one of `two_player`, or a variant of one that legal moves are listed for."""
    return base_name(name) in LEGAL_MOVES or (name in table() and _for_two(table()[name]))


def _for_two(game: Game) -> bool:
    return game.status == PLAYS and game.players is not None and game.players[0] == 2


def opponents(name: str) -> list[str]:
    """The opponents of this game that need no model, the weakest first."""
    base = base_name(name)
    return [RANDOM] * (base in LEGAL_MOVES) + [EXPERT] * (base in SCRIPTED)


def seat_of(seat: Seat, seed: int) -> int:
    """The agent's seat in the episode of `seed`."""
    # Not seeded with the number itself: the game draws by that.
    return Random(f"seat {seed}").randrange(2) if seat == "seed" else int(seat)


def horizon(name: str, started: Any) -> int:
    """Most turns of one seat in a game that has been reset: those of its rules, of its own limit, else `NO_LIMIT`."""
    base = base_name(name)
    if base in _TURNS:
        return max(1, _TURNS[base](started))
    return started.state.max_turns or NO_LIMIT
