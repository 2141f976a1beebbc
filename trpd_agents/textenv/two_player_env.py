"""textarena's two-player games as Gymnasium text environments: the agent has one seat, a scripted opponent the other.

Invariant: an episode is a function of (game, arguments, seed, the actions). The seed decides the game, the seat and a
scripted opponent's choices, each by random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import gymnasium

from trpd_agents.errors import UserError
from trpd_agents.textenv.textarena_games import base_name
from trpd_agents.textenv.textarena_load import factory
from trpd_agents.textenv.textarena_matches import EXPERT, RANDOM, SELF, Seat, horizon, opponents, seat_of
from trpd_agents.textenv.two_player_experts import SCRIPTED
from trpd_agents.textenv.two_player_match import Match
from trpd_envs import Text

_OURS = ("opponent", "seat", "max_turns")


class MatchEnv(gymnasium.Env[str, str]):
    """What both kinds of environment have: the game, the agent's seat, and the limit of a seat's turns."""

    def __init__(self, game: str, *, opponent: str, seat: Seat, max_turns: int | None, game_kwargs: dict[str, Any]):
        if max_turns is not None and (isinstance(max_turns, bool) or not isinstance(max_turns, int) or max_turns < 1):
            raise ValueError(f"max_turns={max_turns!r}: wanted a whole number of at least 1")
        if isinstance(seat, bool) or seat not in ("seed", 0, 1):
            raise ValueError(f"seat={seat!r}: wanted 0, 1 or 'seed', which draws one of them in each episode")
        self.game, self.opponent = game, opponent
        self.observation_space = self.action_space = Text()
        self._make = factory(game, game_kwargs, ours=_OURS)
        # Whether it can be started with these arguments shows here, not in the first episode.
        self.max_turns = max_turns or horizon(game, Match(game, self._make, 0).game)
        self._seat = seat
        self._match: Match | None = None  # None when no episode is running

    def _start(self, seed: int | None) -> tuple[Match, int]:
        """A new match, and the seed of its episode."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._match = Match(self.game, self._make, seed)
        self.seat = seat_of(self._seat, seed)
        return self._match, seed

    def _running(self) -> Match:
        if self._match is None:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() before step()")
        return self._match

    def legal_actions(self) -> list[str]:
        """Moves of the player whose turn it is: all that the game would accept, or a sensible part of them."""
        return [] if self._match is None else self._match.legal_moves()


class TwoPlayerEnv(MatchEnv):
    """One two-player game of textarena, e.g. `TwoPlayerEnv("TicTacToe-v0", opponent="scripted", seat=0)`.

    `reset` returns the observation with which the agent's first turn begins, `step` plays the agent's move and what the
    opponent answers. The reward is textarena's for the agent's seat, on the last turn. `info["success"]`: the agent has
    won; `info["draw"]`: the match is over and nobody has. `info["ok"]`: the move was valid; two invalid ones in a row
    lose most games. Every action spends a turn; after `max_turns` of the agent's the episode is truncated, neither won
    nor drawn.

    Args:
        opponent: "random" plays any legal move, "scripted" the best it finds.
        seat: 0 or 1, of which 0 usually begins; "seed" draws it.
        max_turns: of the agent; by default more than the rules allow, or 100 where they allow any number.
        game_kwargs: of the game.

    Raises `UserError` for wrong arguments, and where there is no such opponent in the game.
    """

    def __init__(
        self,
        game: str,
        *,
        opponent: str = RANDOM,
        seat: Seat = "seed",
        max_turns: int | None = None,
        **game_kwargs: Any,
    ):
        if opponent not in opponents(game):
            raise UserError(_no_opponent(game, opponent))
        super().__init__(game, opponent=opponent, seat=seat, max_turns=max_turns, game_kwargs=game_kwargs)
        self.expert: Callable[[], str | None] | None = None
        self.optimal_actions: Callable[[], list[str]] | None = None
        if base_name(game) in SCRIPTED:
            self.expert = lambda: next(iter(self._best()), None)
            self.optimal_actions = self._best

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        match, seed = self._start(seed)
        self._chance = Random(f"opponent {seed}")  # not the number itself: the game draws by that
        self._turn = 0
        self._reply(match)
        return match.news(self.seat), {"success": False, "draw": False, "ok": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        match = self._running()
        self._turn += 1
        ok = match.play(action)
        self._reply(match)
        observation = match.news(self.seat)
        truncated = not match.over and self._turn >= self.max_turns
        if match.over or truncated:
            self._match = None
        told = match.result(self.seat)
        info = {"success": told.success, "draw": told.draw, "ok": ok}
        return observation, told.reward, match.over, truncated, info

    def _best(self) -> list[str]:
        """Every move that the scripted player of this game holds for the best."""
        return [] if self._match is None else SCRIPTED[base_name(self.game)](self._match.game)

    def _reply(self, match: Match) -> None:
        """The opponent's moves until it is the agent's turn again."""
        while not match.over and match.seat != self.seat:
            move = self._chance.choice(self._best() if self.opponent == EXPERT else match.legal_moves())
            if not match.play(move):
                raise RuntimeError(f"textarena/{self.game} refuses the opponent's move {move!r}, which is legal")


def _no_opponent(game: str, opponent: str) -> str:
    lacking = "legal moves are listed" if opponent == RANDOM else "player is scripted"
    working = [*map(repr, opponents(game)), f"{SELF!r} (the agent plays both seats)"]
    return (
        f"textarena/{game} has no opponent {opponent!r}, because no {lacking} for it. What works: "
        f"opponent={', '.join(working)}, or a model's directory, hub id or builtin:NAME."
    )
