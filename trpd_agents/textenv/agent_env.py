"""`AgentEnv`: any Gymnasium text environment as what the collector drives.

Invariant: whatever the environment underneath does, `reset` and `step` either return well-formed values (text, a
finite reward, real booleans, and a success at the end of an episode) or raise `EnvironmentFailure`; nothing an
environment does is ever turned into a reward of 0.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import gymnasium
import numpy as np

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.spec import EnvSpec
from trpd_agents.textenv.time_limit import TimeExpired, call_within

ACTION_LIMIT = 2000  # characters, unless an environment says; longer texts crash or stall several public games
TIME_LIMIT = 10.0  # seconds for one reset or step
_REPLACEMENT = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSAFE = re.compile("[\0\ud800-\udfff]")


Ending = tuple[str, float, bool, bool]  # what one seat is told at the end, its reward, whether it has won, or drawn


@dataclass(frozen=True)
class Step:
    """What one action led to.

    `ok`: the environment accepted the action (`info["ok"]`, else True). `success`: the environment's
    `info["success"]`, else whether the total reward has reached its `reward_threshold`; None only before the end of
    an episode of an environment that says nothing yet. `draw`: `info["draw"]`, None where there are no draws.

    In an environment with several seats `seat` is whose turn it is and whom the observation is for (`info["seat"]`);
    the last step has an `Ending` for each seat (`info["endings"]`), and what it says itself is that of the seat that
    has just acted.
    """

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    ok: bool
    success: bool | None
    draw: bool | None = None
    seat: int | None = None
    endings: tuple[Ending, ...] | None = None


def clean_action(text: str, limit: int = ACTION_LIMIT) -> str:
    """An action as environments get it: at most `limit` characters, U+FFFD for NUL and lone surrogates."""
    return _UNSAFE.sub(_REPLACEMENT, text[:limit])


class AgentEnv:
    """Drives `env`, made from `spec`, one episode after another.

    `seconds` limits each reset and step (see `time_limit` for where this can be enforced). After an
    `EnvironmentFailure` the instance is in an unknown state: close it and make another one.
    """

    def __init__(self, env: gymnasium.Env, spec: EnvSpec, seconds: float = TIME_LIMIT):
        self.env = env
        self.spec = spec
        self.seconds = seconds
        self.max_turns = _turn_limit(env, spec)
        self.action_limit = _action_limit(env, spec)
        self.reward_threshold = _reward_threshold(env)
        self.opening = ""  # the observation that the episode began with
        self.hint: str | None = None  # what `info["hint"]` of the reset said, for a teacher's eyes only
        self.seat: int | None = None  # whose turn it is, where there are several
        self._total = 0.0
        self._running = False

    @property
    def instructions(self) -> str:
        """The environment's `instructions` attribute, the system text, or ""; may change at a reset."""
        text = _attribute(self.env, "instructions")
        if text is not None and not isinstance(text, str):
            raise UserError(f"environment {self.spec.id}: `instructions` is a string; found {type(text).__name__}")
        return text or ""

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The environment's `tools` attribute, JSON-schema function descriptions, or []; may change at a reset."""
        tools = _attribute(self.env, "tools")
        if tools is None:
            return []
        if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
            raise UserError(
                f"environment {self.spec.id}: `tools` is a list of JSON-schema function descriptions (dicts); "
                f"found {tools!r:.200}"
            )
        return list(tools)

    @property
    def in_process(self) -> bool:
        """Whether the environment's class declares itself fit to share its player's process: quick, and no trouble.

        What a class inherits is no declaration: it says nothing about the code that was added.
        """
        declared = vars(type(self.env.unwrapped)).get("in_process", False)
        if not isinstance(declared, bool):
            raise UserError(f"environment {self.spec.id}: `in_process` is True or False; found {declared!r:.100}")
        return declared

    @property
    def seats(self) -> int:
        """How many players the environment asks for moves, one after another: its attribute `seats`, usually 1."""
        return getattr(self.env.unwrapped, "seats", 1)

    @property
    def has_expert(self) -> bool:
        """Whether the environment has a scripted solver."""
        return callable(_attribute(self.env, "expert"))

    def expert(self) -> str | None:
        """The scripted solver's next action in the present state; None without a solver or when it is lost."""
        solver = _attribute(self.env, "expert")
        if not callable(solver):
            return None
        action = self._call("step_raised", "expert()", solver)
        if action is not None and not isinstance(action, str):
            raise self._failure("step_raised", f"expert() returned {action!r:.100}; wanted a string or None")
        return action

    def optimal_actions(self) -> list[str]:
        """Every action that is as good as the expert's in the present state; empty when nothing leads to success.

        From the environment's `optimal_actions()`; without one, what `expert()` says.
        """
        found = self._texts("optimal_actions")
        if found is not None:
            return found
        action = self.expert()
        return [] if action is None else [action]

    @property
    def has_legal_actions(self) -> bool:
        """Whether the environment lists what it would accept."""
        return callable(_attribute(self.env, "legal_actions"))

    def legal_actions(self) -> list[str]:
        """What the environment would accept in the present state, or a sensible part of it; empty if it does not
        say."""
        return self._texts("legal_actions") or []

    def _texts(self, name: str) -> list[str] | None:
        """What the environment's method `name` lists; None without such a method."""
        method = _attribute(self.env, name)
        if not callable(method):
            return None
        found = self._call("step_raised", f"{name}()", method)
        if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
            raise self._failure("step_raised", f"{name}() returned {found!r:.100}; wanted a list of strings")
        return list(found)

    def reset(self, seed: int) -> str:
        """Start the episode that `seed` determines; returns the first observation."""
        self._running = False
        result = self._call("reset_raised", f"reset(seed={seed})", self.env.reset, seed=int(seed))
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._failure("bad_observation", f"reset returned {_shape(result)}; wanted (observation, info)")
        observation, info = result
        self._check_info("reset", info)
        self._total = 0.0
        self._running = True
        self.hint = self._hint(info.get("hint"))
        self.seat = self._seat(info)
        self.opening = self._text("reset", observation)
        return self.opening

    def step(self, action: str) -> Step:
        """Take one action, sanitised by `clean_action` and cut to what the environment takes (`max_action_length`).

        Only between a reset and the end of its episode.
        """
        if not self._running:
            raise RuntimeError("step needs a running episode: call reset first, and again after an episode has ended")
        result = self._call("step_raised", "step", self.env.step, clean_action(action, self.action_limit))
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._failure(
                "bad_observation",
                f"step returned {_shape(result)}; wanted (observation, reward, terminated, truncated, info)",
            )
        observation, reward, terminated, truncated, info = result
        observation = self._text("step", observation)
        reward = self._reward(reward)
        terminated = self._flag("terminated", terminated)
        truncated = self._flag("truncated", truncated)
        self._check_info("step", info)
        ok = self._flag('info["ok"]', info.get("ok", True))
        self._total += reward
        ended = terminated or truncated
        success = self._success(info, ended)
        self._running = not ended
        draw = bool(info["draw"]) if isinstance(info.get("draw"), bool | np.bool_) else None
        self.seat = self._seat(info)
        endings = tuple(info["endings"]) if self.seats > 1 and "endings" in info else None
        return Step(observation, reward, terminated, truncated, ok, success, draw, self.seat, endings)

    def _seat(self, info: Mapping[str, Any]) -> int | None:
        return info.get("seat") if self.seats > 1 else None

    def close(self) -> None:
        """Free the environment. No episode depends on it any more, so failing here is not worth an error."""
        self._running = False
        with contextlib.suppress(Exception, TimeExpired):
            call_within(self.seconds, self.env.close)

    def _success(self, info: Mapping[str, Any], ended: bool) -> bool | None:
        if "success" in info:
            return self._flag('info["success"]', info["success"])
        if self.reward_threshold is not None:
            return self._total >= self.reward_threshold - 1e-9  # ten times 0.1 falls a rounding error short of 1
        if not ended:
            return None
        raise self._failure(
            "bad_flag",
            'the episode ended without info["success"] and the environment has no reward_threshold, so nobody can say '
            'whether it succeeded; return info["success"] (True or False) with every step, or register the '
            "environment with a reward_threshold",
        )

    def _call(self, kind: str, what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call_within(self.seconds, function, *args, **kwargs)
        except TimeExpired as expired:
            raise self._failure("timeout", f"{what} took more than {self.seconds:g} s: {blame(expired)}") from None
        except EnvironmentFailure:
            raise
        except (Exception, SystemExit) as error:  # sys.exit() in an environment must not end the run
            raise self._failure(kind, f"{what} raised {blame(error)}") from error

    def _failure(self, kind: str, message: str) -> EnvironmentFailure:
        return EnvironmentFailure(kind, f"environment {self.spec.id}: {message}")

    def _text(self, where: str, observation: Any) -> str:
        if not isinstance(observation, str):
            raise self._failure(
                "bad_observation", f"{where} returned an observation of type {type(observation).__name__}; wanted str"
            )
        return _SURROGATES.sub(_REPLACEMENT, observation)  # tokenizers and Parquet refuse lone surrogates

    def _hint(self, hint: Any) -> str | None:
        if hint is None:
            return None
        if not isinstance(hint, str) or not hint.strip():
            raise self._failure("bad_observation", f'info["hint"] of reset is {hint!r:.100}; wanted a text')
        return _SURROGATES.sub(_REPLACEMENT, hint)

    def _reward(self, reward: Any) -> float:
        if not isinstance(reward, Real | np.bool_) or not math.isfinite(reward):
            raise self._failure("bad_reward", f"step returned reward {reward!r:.100}; wanted a finite number")
        return float(reward)

    def _flag(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            kind = type(value).__name__
            raise self._failure("bad_flag", f"{name} is {value!r:.100} of type {kind}; wanted True or False")
        return bool(value)

    def _check_info(self, where: str, info: Any) -> None:
        if not isinstance(info, Mapping):
            raise self._failure("bad_flag", f"{where} returned an info of type {type(info).__name__}; wanted a dict")


def _attribute(env: gymnasium.Env, name: str) -> Any:
    """An optional attribute of the environment or of the wrapper around it that defines it; None when nobody does."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _turn_limit(env: gymnasium.Env, spec: EnvSpec) -> int | None:
    """The smaller of the registered `max_episode_steps` and the environment's own `max_turns`; None with neither."""
    own = _attribute(env, "max_turns")
    if own is not None and (isinstance(own, bool) or not isinstance(own, int | np.integer) or own < 1):
        raise UserError(f"environment {spec.id}: `max_turns` is a positive number of turns; found {own!r}")
    registered = env.spec.max_episode_steps if env.spec is not None else None
    limits = [int(limit) for limit in (own, registered) if limit is not None]
    return min(limits, default=None)


def _action_limit(env: gymnasium.Env, spec: EnvSpec) -> int:
    """The characters of an action that the environment's `max_action_length` lets through."""
    limit = _attribute(env, "max_action_length")
    if limit is None:
        return ACTION_LIMIT
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
        raise UserError(
            f"environment {spec.id}: `max_action_length` is a positive number of characters; found {limit!r}"
        )
    return int(limit)


def _reward_threshold(env: gymnasium.Env) -> float | None:
    """The total reward from which an episode is a success: registered with the environment, else its own attribute."""
    registered = env.spec.reward_threshold if env.spec is not None else None
    threshold = _attribute(env, "reward_threshold") if registered is None else registered
    return None if threshold is None else float(threshold)


def _shape(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
