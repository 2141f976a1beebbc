"""A two-player game of textarena in progress, move by move.

Invariant: a match is a function of (game, arguments, seed, the moves of both seats) and leaves no trace: textarena
draws from the process's global generators, and the match has a state of its own for them. It is blind to who plays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.textarena_games import base_name
from trpd_agents.textenv.textarena_load import OwnRandomness, explained, quiet
from trpd_agents.textenv.textarena_matches import LEGAL_MOVES


@dataclass(frozen=True)
class Result:
    """How a match ended for one seat. A win is a higher reward than the other's that no invalid move of one's own
    spoilt; a draw is equal rewards, or a position in which nobody can move."""

    reward: float
    success: bool
    draw: bool


class Match:
    """One game from `make`, started with `seed`.

    Raises `UserError` when the game cannot be started with its arguments, or not with two players.
    """

    def __init__(self, game: str, make: Callable[[], Any], seed: int):
        self.name = game
        self.over = False
        self._fault: str | None = None  # what happened instead of a regular end
        self._invalid: int | None = None  # the seat whose last move was invalid, if that ended the match
        self._random = OwnRandomness(seed)
        with self._random, quiet():
            try:
                self.game = make()
                self.game.reset(num_players=2, seed=seed)
            except Exception as error:
                raise explained(game, error) from error
        if self.game.state.num_players != 2:
            raise UserError(f"textarena/{game} is not a game for two players.")

    @property
    def seat(self) -> int:
        """Whose turn it is, 0 or 1."""
        return self.game.state.current_player_id

    def play(self, action: str) -> bool:
        """A move of the player whose turn it is; whether it was valid. Two invalid ones in a row lose most games.

        An action that makes the game raise is invalid and ends the match: the player caused it.
        """
        mover, state = self.seat, self.game.state
        warned = state.game_info[mover].get("invalid_move", False)
        try:
            with self._random, quiet():
                self.over, _ = self.game.step(action)
        except Exception as error:
            self.over, self._invalid = True, mover
            self._fault = f"The game could not process this action: {blame(error)}"
            return False
        expelled = state.game_info[mover].get("invalid_move", False) and not warned
        valid = not expelled and not (state.error_count and self.seat == mover)
        if self.over:
            self._invalid = None if valid else mover
        elif base_name(self.name) in LEGAL_MOVES and not self.legal_moves():
            self.over, self._fault = True, "Nobody can move any more: a draw."
        return valid

    def legal_moves(self) -> list[str]:
        """For the player whose turn it is; empty when the match is over or nobody knows."""
        legal = LEGAL_MOVES.get(base_name(self.name))
        return [] if self.over or legal is None else legal(self.game)

    def news(self, seat: int) -> str:
        """What `seat` has been told since it was last asked: its own words left out, and of several boards the last."""
        observations = self.game.state.observations
        messages = [_in_order(message) for message in observations[seat]]
        observations[seat] = []
        boards = [k for k, (_, _, kind) in enumerate(messages) if kind == "GAME_BOARD"]
        lines = []
        for k, (sender, text, kind) in enumerate(messages):
            if kind == "GAME_BOARD" and k != boards[-1]:
                continue
            if kind != "PLAYER_ACTION":
                lines.append(text)
            elif sender != seat:
                lines.append(f"[Player {sender}] {text}")
        if self.over:
            reason = self._fault or self.game.state.game_info[seat].get("reason")
            lines += [reason] if isinstance(reason, str) else []
        return "\n".join(lines)

    def result(self, seat: int) -> Result:
        """How the match ended for `seat`; while it is going on, nobody has won anything."""
        if not self.over:
            return Result(0.0, False, False)
        if self._fault is not None:
            worth = 0.0 if self._invalid is None else -1.0 if self._invalid == seat else 1.0
            return Result(worth, worth > 0, not worth)
        rewards, _ = self.game.close()
        own, other = (_number((rewards or {}).get(who)) for who in (seat, 1 - seat))
        return Result(own, own > other and self._invalid != seat, own == other and self._invalid is None)


def _in_order(message: tuple[Any, Any, Any]) -> tuple[int, str, str]:
    """Sender (-1 for the game), text and kind of a message; some games swap the last two."""
    sender, text, kind = message
    if not isinstance(text, str):
        text, kind = kind, text
    return sender, str(text), getattr(kind, "name", str(kind))


def _number(reward: Any) -> float:
    """A reward as a finite number; some games give the reason of a failure in its place."""
    return float(reward) if isinstance(reward, Real) and math.isfinite(reward) else 0.0
