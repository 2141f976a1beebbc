"""Bundled text environments: plain Gymnasium, observations and actions are text, each with a scripted expert.

Importing this package registers them, so `gymnasium.make("trpd_envs:trpd/Courier-v0", rooms=5)` needs nothing else.
Each comes in three difficulties: `Courier-easy-v0`, `Courier-v0` and `Courier-hard-v0`, which
differ in their knobs alone.
`ToolEnv` and `tool` are what a new environment is written with; see `trpd_envs.tools`.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from trpd_envs.base import Refused, TextEnv
from trpd_envs.calls import BadCall, Call, format_call, parse_calls
from trpd_envs.spaces import Text
from trpd_envs.tools import ToolEnv, ToolError, tool

__all__ = [
    "BadCall",
    "Call",
    "Refused",
    "Text",
    "TextEnv",
    "ToolEnv",
    "ToolError",
    "format_call",
    "parse_calls",
    "tool",
]

# name: (entry point, knobs of `Name-easy-v0`, knobs of `Name-hard-v0`); `Name-v0` has the defaults of the class.
_BUNDLED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Courier": ("courier:Courier", {"rooms": 3, "items": 1}, {"rooms": 8, "items": 4, "max_turns": 24}),
    "KeyChain": ("keychain:KeyChain", {"length": 2, "decoys": 1}, {"length": 8, "decoys": 5}),
    "GridLake": ("gridlake:GridLake", {"size": 3}, {"size": 8}),
    "GuessNumber": ("guessnumber:GuessNumber", {"high": 7}, {"high": 1000}),
    "SqlDesk": ("sqldesk:SqlDesk", {"links": 1, "decoys": 0}, {"links": 4, "decoys": 4, "rows": 12}),
    "Calendar": (
        "calendar_booking:Calendar",
        {"meetings": 2, "days": 1, "orders": 0},
        {"meetings": 7, "people": 4, "days": 3, "hours": 8, "busy": 60, "orders": 3},
    ),
    "Shop": ("shop:Shop", {"products": 3, "kinds": 2, "wanted": 1}, {"products": 16, "kinds": 4, "wanted": 3}),
    "CalcTools": ("calctools:CalcTools", {"numbers": 3}, {"numbers": 6}),
    "MiniFS": (
        "minifs:MiniFS",
        {"files": 3, "directories": 1, "changes": 2},
        {"files": 6, "directories": 3, "changes": 8},
    ),
    "Hanoi": ("hanoi:Hanoi", {"disks": 2}, {"disks": 5}),
    "Mastermind": ("mastermind:Mastermind", {"length": 3, "digits": 4}, {"length": 5, "digits": 8}),
}

for _name, (_entry_point, _easy, _hard) in _BUNDLED.items():
    for _difficulty, _knobs in {"": {}, "-easy": _easy, "-hard": _hard}.items():
        # Without the passive checker, which repeats in every episode what the tests check once. The turn limit is our
        # own.
        gymnasium.register(
            id=f"trpd/{_name}{_difficulty}-v0",
            entry_point=f"trpd_envs.{_entry_point}",
            disable_env_checker=True,
            kwargs=_knobs,
        )
