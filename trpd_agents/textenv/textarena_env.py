"""textarena's single-player games as Gymnasium text environments.

Invariant: an episode is a function of (game, arguments, seed, actions) and leaves no trace. textarena draws from
Python's and NumPy's *global* generators, so each episode has a state of its own for both, put in place only while the
game runs; a new game object serves each episode, because a used one shows its previous episode again. Nothing is
downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import gymnasium

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_games import SUCCESS_REWARD, base_name, horizon, other_version, table
from trpd_agents.textenv.textarena_load import OwnRandomness, explained, factory, quiet

_TEXT_SPACE_LENGTH = 1_000_000


class TextArenaEnv(gymnasium.Env[str, str]):
    """One single-player game of textarena, e.g. `TextArenaEnv("Mastermind-v0", code_length=3)`.

    The first observation holds the game's rules; later ones only what is new. The reward comes on the last turn, 0
    before. `info["success"]`: the final reward reached `success_reward` (1 for nearly every game: textarena pays up
    to 0.95 for failures) by a valid move. `info["ok"]`: the move was valid. Every action spends a turn, an invalid
    one too; after `max_turns` of them the episode is truncated (default: the game's own limit). An action that makes
    the game raise ends the episode as a failure. `seed` has no effect on the games that the table in
    `textarena_games` says it of. Further arguments go to the game; so does `max_turns` where the game has
    one.

    Not for several threads of one process: they would share the global generators.

    Raises `UserError` for an unknown game, wrong arguments, and games that need a download, a service or a newer
    Python.
    """

    def __init__(
        self, game: str, *, max_turns: int | None = None, success_reward: float | None = None, **game_kwargs: Any
    ):
        if max_turns is not None and (isinstance(max_turns, bool) or not isinstance(max_turns, int) or max_turns < 1):
            raise ValueError(f"max_turns={max_turns!r}: wanted a whole number of at least 1")
        self.game = game
        self._make = factory(game, game_kwargs, max_turns, ours=("max_turns", "success_reward"))
        self.success_reward = SUCCESS_REWARD.get(base_name(game), 1.0) if success_reward is None else success_reward
        self.observation_space = gymnasium.spaces.Text(_TEXT_SPACE_LENGTH, min_length=0)
        self.action_space = gymnasium.spaces.Text(_TEXT_SPACE_LENGTH, min_length=0)
        self._random = OwnRandomness(0)
        self._played: Any = None
        known = None if game_kwargs or other_version() else table().get(game)
        if known is None or not known.turns:  # find out here, not in the first episode, whether it can be played
            self._played = self._tried()
        self.max_turns = max_turns or (known and known.turns) or horizon(game, self._played)
        solver = EXPERTS.get(base_name(game))
        self._turn = 0
        self._over = True
        self.expert: Callable[[], str | None] | None = None
        self.optimal_actions: Callable[[], list[str]] | None = None
        self.legal_actions: Callable[[], list[str]] | None = None
        if solver is not None:

            def optimal() -> list[str]:
                return [] if self._over else solver.optimal(self._played)

            self.expert = lambda: next(iter(optimal()), None)
            self.optimal_actions = optimal
            self.legal_actions = lambda: [] if self._over else solver.legal(self._played)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._random = OwnRandomness(seed)
        self._played = self._start(seed)
        self._turn = 0
        self._over = False
        return self._news(), {"success": False, "ok": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() before step()")
        self._turn += 1
        try:
            with self._random, quiet():
                done, _ = self._played.step(action)
                observation = self._news()
        except Exception as error:
            self._over = True
            message = f"The game could not process this action: {blame(error)}"
            return message, 0.0, True, False, {"success": False, "ok": False}
        state = self._played.state
        ok = not state.error_count and not state.game_info[0].get("invalid_move", False)
        if not done:
            self._over = truncated = self._turn >= self.max_turns
            return observation, 0.0, False, truncated, {"success": False, "ok": ok}
        self._over = True
        rewards, game_info = self._played.close()
        reward = _number(rewards[0] if rewards else None)
        reason = game_info[0].get("reason")
        if isinstance(reason, str):
            observation = "\n".join(filter(None, [observation, reason]))
        success = reward >= self.success_reward and not game_info[0].get("invalid_move", False)
        return observation, reward, True, False, {"success": success, "ok": ok}

    def _tried(self) -> Any:
        several = (
            f"textarena/{self.game} is a game for several players; wanted one for a single player or for two "
            "(`trpd envs --textarena` lists them)."
        )
        known = table().get(self.game)
        if known and known.players and known.players[0] > 1:
            raise UserError(several)
        try:
            played = self._start(0)
        except Exception as error:
            raise explained(self.game, error) from error
        if type(played.state).__name__ != "SinglePlayerState":
            raise UserError(several)
        return played

    def _start(self, seed: int) -> Any:
        with self._random, quiet():
            played = self._make()
            played.reset(num_players=1, seed=seed)
        return played

    def _news(self) -> str:
        """What the game has said since the last time, without the echo of the action."""
        _, messages = self._played.get_observation()
        return "\n".join(text for sender, text in map(_sender_and_text, messages) if sender != "PLAYER_ACTION")


def _sender_and_text(message: tuple[Any, Any, Any]) -> tuple[str, str]:
    """The kind of a message and its text.

    Countdown, Cryptarithm and Slitherlink hand textarena their arguments in the wrong order, so the three parts
    arrive as (kind, sender, text) instead of (sender, text, kind).
    """
    sender, text, kind = message
    if not isinstance(text, str):
        sender, text, kind = text, kind, sender
    return getattr(kind, "name", str(kind)), str(text)


def _number(reward: Any) -> float:
    """A reward as a finite number; some games give the reason of a failure in its place."""
    return float(reward) if isinstance(reward, Real) and math.isfinite(reward) else 0.0
