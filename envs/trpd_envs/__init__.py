"""Bundled text environments: plain Gymnasium, observations and actions are text, each with a scripted expert.

Importing this package registers them, so `gymnasium.make("trpd_envs:trpd/Courier-v0", rooms=5)` needs nothing else.
`ToolEnv` and `tool` are what a new environment is written with; see `trpd_envs.tools`.
"""

from __future__ import annotations

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

for _name, _entry_point in {
    "Courier": "trpd_envs.courier:Courier",
    "KeyChain": "trpd_envs.keychain:KeyChain",
    "GridLake": "trpd_envs.gridlake:GridLake",
    "GuessNumber": "trpd_envs.guessnumber:GuessNumber",
}.items():
    # Without the passive checker, which repeats in every episode what the tests check once. The turn limit is our own.
    gymnasium.register(id=f"trpd/{_name}-v0", entry_point=_entry_point, disable_env_checker=True)
