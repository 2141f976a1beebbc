"""The rules every bundled episode keeps, so that an environment's file holds only its game.

Invariant: each `step` costs one turn whatever the text was; the turn limit truncates; `info` always carries `success`
(final truth so far) and `ok` (did this action work), that of `reset` also `hint` where a game has one; nothing a model
can write makes `step` raise.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

import gymnasium
from gymnasium.error import ResetNeeded

from trpd_envs.spaces import Text


class Refused(Exception):
    """The world does not let this action happen. Its message becomes the observation, with `info["ok"]` False."""


class TextEnv(gymnasium.Env[str, str]):
    """A text game with a hard turn limit. A subclass writes `start` and `act`; `ToolEnv` already writes `act`.

    `instructions` is the system text a model plays under. `turn` counts the steps of this episode and `turns_left`
    those that remain. Randomness comes from `self.np_random`, which `reset(seed=...)` seeds. `in_process` declares a
    game that may be played in the process of whoever plays it: every step is quick whatever the action, and nothing
    outside of the instance is touched, Python's and NumPy's global generators included. A subclass declares it anew.
    """

    instructions: str = ""
    tools: ClassVar[list[dict[str, Any]]] = []
    in_process: ClassVar[bool] = False

    def __init__(self, max_turns: int = 20):
        self.max_turns = check_int("max_turns", max_turns, 1)
        self.observation_space = Text()
        self.action_space = Text()
        self.turn = 0
        self.success = False
        self.over = True  # nothing may be stepped before the first reset

    # What a game writes.

    def start(self) -> str:
        """Draw a new episode from `self.np_random` and return the first observation."""
        raise NotImplementedError(f"{type(self).__name__} must define start(self) -> str")

    def act(self, action: str) -> str:
        """Play one action and return the observation. Raise `Refused` when it cannot be done."""
        raise NotImplementedError(f"{type(self).__name__} must define act(self, action: str) -> str")

    def view(self) -> str:
        """The current state in words; it follows the message of a refused action. Empty by default."""
        return ""

    def hint(self) -> str:
        """What a player with more knowledge would know at the start of this episode; empty by default."""
        return ""

    def reward(self) -> float:
        """Reward of the turn just played: 1 for success, else 0. Override it for partial credit."""
        return float(self.success)

    def finish(self, success: bool) -> None:
        """End the episode with this turn, as a success or a failure."""
        self.over = True
        self.success = bool(success)

    # What Gymnasium calls.

    @property
    def turns_left(self) -> int:
        return self.max_turns - self.turn

    def python_random(self) -> Random:
        """A Python generator seeded from `self.np_random`: for many small draws it is much faster than NumPy's."""
        return Random(int(self.np_random.integers(2**63)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        self.success = False
        self.over = False
        observation = self.start()
        hint = self.hint()
        return observation, {"success": False, "ok": True} | ({"hint": hint} if hint else {})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.over:
            raise ResetNeeded(f"{type(self).__name__}: no episode is running; call reset() before step()")
        if not isinstance(action, str):
            raise TypeError(f"{type(self).__name__}.step takes the model's text, a str; found {type(action).__name__}")
        self.turn += 1
        ok = True
        try:
            observation = self.act(action)
        except Refused as refusal:
            ok = False
            observation = " ".join(filter(None, [str(refusal), self.view()]))
        terminated = self.over
        truncated = not terminated and self.turn >= self.max_turns
        self.over = terminated or truncated
        return observation, self.reward(), terminated, truncated, {"success": self.success, "ok": ok}


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` if it is a whole number in [low, high], else ValueError naming the knob, the value and what is wanted."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        raise ValueError(f"{name}={value!r}: wanted {wanted}")
    return value


def check_bool(name: str, value: Any) -> bool:
    """`value` if it is True or False, else ValueError. A YAML string such as "off" must not count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: wanted true or false")
    return value
