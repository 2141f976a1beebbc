"""Bare game objects of textarena, made without a trace outside: no download, no output, no global randomness.

textarena draws from Python's and NumPy's *global* generators; `OwnRandomness` gives an episode a state of its own for
both. Word games are private copies of their modules, played with
`textarena_words`. Whatever keeps a game from being made is a `UserError` that says what to do.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.global_random import GlobalRandom as OwnRandomness
from trpd_agents.textenv.spec import did_you_mean
from trpd_agents.textenv.textarena_games import WORD_GAMES, base_name, refusal, table
from trpd_agents.textenv.textarena_words import word_game


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Several games print their own debugging output."""
    return contextlib.redirect_stdout(io.StringIO())


def factory(
    game: str, kwargs: Mapping[str, Any], max_turns: int | None = None, ours: Sequence[str] = ()
) -> Callable[[], Any]:
    """Makes bare objects of `game`, e.g. `Mastermind-v0`, with the arguments of its registration and `kwargs`.

    `max_turns` is passed on where the game takes one. `ours`: arguments that are not the game's, for the message.
    Call what this returns inside `OwnRandomness`: some games draw when they are made. Raises `UserError` for an unknown
    game, one that cannot be played, and unknown arguments.
    """
    why_not = refusal(game)
    if why_not:
        raise UserError(f"textarena/{game} cannot be played: {why_not}.")
    try:
        made, registered = game_class(game)
    except KeyError:
        hint = did_you_mean(game, table())
        raise UserError(f"textarena has no game {game!r}.{hint} `trpd envs --textarena` lists them.") from None
    except Exception as error:
        raise explained(game, error) from error
    accepted = list(inspect.signature(made).parameters)
    unknown = sorted(set(kwargs) - set(accepted))
    if unknown:
        known = list(dict.fromkeys([*accepted, *ours]))
        raise UserError(
            f"textarena/{game} takes no argument {unknown[0]!r}; it accepts: {', '.join(known)}."
            f"{did_you_mean(unknown[0], known)}"
        )
    arguments = {**registered, **kwargs}
    if max_turns is not None and "max_turns" in accepted:
        arguments["max_turns"] = max_turns
    if base_name(game) in WORD_GAMES:
        return lambda: _with_sorted_words(made(**arguments))
    return lambda: made(**arguments)


def game_class(game: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class of `game` and the arguments it is registered with; `KeyError` for an unknown one.

    Raises whatever importing the game's module raises.
    """
    with OwnRandomness(0), quiet():
        from textarena.envs.registration import ENV_REGISTRY

        registered = ENV_REGISTRY[f"{game}-raw" if f"{game}-raw" in ENV_REGISTRY else game]
        return _class(registered.entry_point), registered.kwargs


def explained(game: str, error: Exception) -> Exception:
    """What keeps a game from being played, as something its user can act on."""
    name = f"textarena/{game}"
    text = str(error)
    if "API key" in text:
        return UserError(f"{name} asks an online language model ({text}); games that need a service are not supported.")
    if isinstance(error, SyntaxError):
        version = ".".join(map(str, sys.version_info[:2]))
        return UserError(f"{name} does not compile under Python {version} ({blame(error)}); it needs a newer Python.")
    if isinstance(error, ImportError):
        return UserError(f"{name} needs a module that is not installed: {blame(error)}.")
    return UserError(f"{name} cannot be started with these arguments: {blame(error)}.")


@cache
def _class(entry_point: Any) -> Any:
    if not isinstance(entry_point, str):
        return entry_point
    module, _, name = entry_point.partition(":")
    folder = module.split(".")[-2]  # textarena.envs.Wordle.env
    return getattr(word_game(module) if folder in WORD_GAMES else importlib.import_module(module), name)


def _with_sorted_words(game: Any) -> Any:
    """WordChains lists a set, in an order that is another in every process."""
    if isinstance(getattr(game, "word_list", None), list):
        game.word_list.sort()
    return game
