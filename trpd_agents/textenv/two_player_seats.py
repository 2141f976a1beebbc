"""textarena's two-player games for players outside: whoever steps the environment plays both seats, one after another.

Each observation is for one seat (`info["seat"]`), which is asked for the next action. The collector gives each seat to
a conversation of its own. Invariant: what a seat is told depends on what it may know, and not on who plays the other.
"""

from __future__ import annotations

from typing import Any

from trpd_agents.textenv.textarena_matches import SELF, Seat
from trpd_agents.textenv.two_player_env import MatchEnv


class BothSeatsEnv(MatchEnv):
    """One two-player game of textarena without an opponent of its own.

    `reset` and `step` return the observation of the seat whose turn it is then, `info["seat"]`. The step that ends the
    match returns what the seat that has moved is told, and `info["endings"]` for each seat its last observation, its
    reward, and whether it has won or drawn. A match is truncated, won by nobody, before a seat would have more than
    `max_turns`. `opponent` says who the other player is: the agent itself ("self") or the name of a model.
    """

    seats = 2

    def __init__(
        self,
        game: str,
        *,
        opponent: str = SELF,
        seat: Seat = "seed",
        max_turns: int | None = None,
        **game_kwargs: Any,
    ):
        if not isinstance(opponent, str) or not opponent:
            raise ValueError(f"opponent={opponent!r}: wanted 'random', 'scripted', 'self' or the name of a model")
        super().__init__(game, opponent=opponent, seat=seat, max_turns=max_turns, game_kwargs=game_kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        match, _ = self._start(seed)
        self._turns = [0, 0]
        return match.news(match.seat), {"success": False, "draw": False, "ok": True, "seat": match.seat}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        match = self._running()
        mover = match.seat
        self._turns[mover] += 1
        info: dict[str, Any] = {"ok": match.play(action)}
        truncated = not match.over and self._turns[match.seat] >= self.max_turns
        if not match.over and not truncated:
            info |= {"success": False, "draw": False, "seat": match.seat}
            return match.news(match.seat), 0.0, False, False, info
        self._match = None
        results = [match.result(seat) for seat in (0, 1)]
        last = [match.news(seat) for seat in (0, 1)]
        info["endings"] = [(told, r.reward, r.success, r.draw) for told, r in zip(last, results, strict=True)]
        own = results[mover]
        info |= {"success": own.success, "draw": own.draw, "seat": mover}
        return last[mover], own.reward, match.over, truncated, info
