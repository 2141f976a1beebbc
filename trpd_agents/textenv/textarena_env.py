"""textarena's single-player games as Gymnasium text environments.

Invariant: an episode is a function of (game, arguments, seed, actions) and leaves no trace. textarena draws from
Python's and NumPy's *global* generators, so each episode has a state of its own for both, put in place only while the
game runs; a new game object serves each episode, because a used one shows its previous episode again. Nothing is
downloaded.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import math
import random
import sys
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import gymnasium
import numpy as np

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.spec import did_you_mean
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_games import (
    EXTRA_TURNS,
    GAMES,
    NEEDS_DATA,
    NO_LIMIT,
    SUCCESS_REWARD,
    UNPLAYABLE,
    base_name,
)

_TEXT_SPACE_LENGTH = 1_000_000


class TextArenaEnv(gymnasium.Env[str, str]):
    """One single-player game of textarena, e.g. `TextArenaEnv("Mastermind-v0", code_length=3)`.

    The first observation holds the game's rules; later ones only what is new. The reward comes on the last turn, 0
    before. `info["success"]`: the final reward reached `success_reward` (1 for nearly every game: textarena pays up
    to 0.95 for failures) by a valid move. `info["ok"]`: the move was valid. Every action spends a turn, an invalid
    one too; after `max_turns` of them the episode is truncated (default: the game's own limit). An action that makes
    the game raise ends the episode as a failure. `seed` has no effect on the games in
    `textarena_games.SEED_HAS_NO_EFFECT`. Further arguments go to the game; so does `max_turns` where the game has
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
        self._make = _factory(game, game_kwargs, max_turns)
        self.success_reward = SUCCESS_REWARD.get(base_name(game), 1.0) if success_reward is None else success_reward
        self.observation_space = gymnasium.spaces.Text(_TEXT_SPACE_LENGTH, min_length=0)
        self.action_space = gymnasium.spaces.Text(_TEXT_SPACE_LENGTH, min_length=0)
        self._random = _OwnRandomness(0)
        self._played: Any = None
        if game not in GAMES or game_kwargs:  # find out here, not in the first episode, whether it can be played
            self._played = self._start(0)
        self.max_turns = max_turns or _horizon(game, self._played)
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
        self._random = _OwnRandomness(seed)
        self._played = self._start(seed)
        self._turn = 0
        self._over = False
        return self._news(), {"success": False, "ok": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() before step()")
        self._turn += 1
        try:
            with self._random, _quiet():
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

    def _start(self, seed: int) -> Any:
        with self._random, _quiet(), _offline():
            try:
                played = self._make()
                played.reset(num_players=1, seed=seed)
            except Exception as error:
                raise _explained(self.game, error) from error
        if type(played.state).__name__ != "SinglePlayerState":
            raise UserError(_several_players(self.game))
        return played

    def _news(self) -> str:
        """What the game has said since the last time, without the echo of the action."""
        _, messages = self._played.get_observation()
        return "\n".join(text for sender, text in map(_sender_and_text, messages) if sender != "PLAYER_ACTION")


class _OwnRandomness:
    """A state of Python's and NumPy's global generators that is in force only inside `with`."""

    def __init__(self, seed: int):
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    def __enter__(self) -> None:
        self._callers = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def __exit__(self, *exception: object) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        random.setstate(self._callers[0])
        np.random.set_state(self._callers[1])


def _factory(game: str, kwargs: dict[str, Any], max_turns: int | None) -> Callable[[], Any]:
    """Makes bare game objects of `game`; its arguments are checked here."""
    why_not = UNPLAYABLE.get(game) or UNPLAYABLE.get(base_name(game))
    if why_not:
        raise UserError(f"textarena/{game} cannot be played: {why_not}.")
    with _OwnRandomness(0), _quiet():
        import textarena
        from textarena.envs.registration import ENV_REGISTRY
    registered = ENV_REGISTRY.get(f"{game}-raw")
    if registered is None:
        hint = did_you_mean(game, [*GAMES, *NEEDS_DATA])
        raise UserError(f"textarena has no game {game!r}.{hint} `trpd envs --textarena` lists them.")
    with _OwnRandomness(0), _quiet(), _offline():
        try:
            accepted = _parameters(registered.entry_point)
        except Exception as error:
            raise _explained(game, error) from error
    unknown = sorted(set(kwargs) - set(accepted))
    if unknown:
        ours = ["max_turns", "success_reward"]
        raise UserError(
            f"textarena/{game} takes no argument {unknown[0]!r}; it accepts: "
            f"{', '.join(dict.fromkeys([*accepted, *ours]))}.{did_you_mean(unknown[0], [*accepted, *ours])}"
        )
    if max_turns is not None and "max_turns" in accepted:
        kwargs = {**kwargs, "max_turns": max_turns}
    return lambda: textarena.make(f"{game}-raw", **kwargs)


def _parameters(entry_point: Any) -> list[str]:
    if isinstance(entry_point, str):
        entry_point = gymnasium.envs.registration.load_env_creator(entry_point)
    return list(inspect.signature(entry_point).parameters)


def _horizon(game: str, started: Any) -> int:
    """The game's own limit: from the table for a game as it is, from the game when arguments changed it."""
    if started is None:
        return GAMES[game]
    if base_name(game) == "2048":
        return started.target_tile
    return started.state.max_turns + EXTRA_TURNS.get(base_name(game), 0) if started.state.max_turns else NO_LIMIT


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


def _explained(game: str, error: Exception) -> Exception:
    """What keeps a game from being played, as something its user can act on."""
    name = f"textarena/{game}"
    text = str(error)
    if isinstance(error, AssertionError) and "players" in text:
        return UserError(_several_players(game))
    if isinstance(error, LookupError) and "nltk" in text:
        resource = text.partition("Resource ")[2].partition(" not found")[0].strip("'\x1b[0-9;m") or "words"
        return UserError(
            f"{name} needs the NLTK data {resource!r}, which is not installed, and nothing is downloaded during a run; "
            f"fetch it once with `python -m nltk.downloader {resource}`."
        )
    if "API key" in text:
        return UserError(f"{name} asks an online language model ({text}); games that need a service are not supported.")
    if isinstance(error, SyntaxError):
        version = ".".join(map(str, sys.version_info[:2]))
        return UserError(f"{name} does not compile under Python {version} ({blame(error)}); it needs a newer Python.")
    if isinstance(error, ImportError):
        return UserError(f"{name} needs a module that is not installed: {blame(error)}.")
    return UserError(f"{name} cannot be started with these arguments: {blame(error)}.")


def _several_players(game: str) -> str:
    return (
        f"textarena/{game} is a game for several players; wanted a single-player game (`trpd envs --textarena` lists "
        "them)."
    )


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Some games call `nltk.download` when imported; here it does nothing, and missing data is reported instead."""
    nltk: Any = importlib.import_module("nltk")  # a dependency of textarena, as slow to import
    download = nltk.download
    nltk.download = lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download = download


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Several games print their own debugging output."""
    return contextlib.redirect_stdout(io.StringIO())
