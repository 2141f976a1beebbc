"""`EnvSpec`: which environment, as plain data.

A spec is what crosses process and machine borders; environments themselves are never pickled, they are made where they
run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trpd_agents.errors import UserError


@dataclass(frozen=True)
class EnvSpec:
    """An environment's name and the keyword arguments of its constructor.

    `id` is one of: the short name of a bundled environment (`KeyChain-v0`), any id registered with Gymnasium
    (`trpd/KeyChain-v0`), `module:Id-v0` (the module is imported first, to register it), `path/to/file.py:Class`, or
    `textarena/Name-v0`, or `benchmark/task` for one of `trpd_agents.textenv.benchmarks`.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise UserError(f"an environment id is a non-empty string such as 'KeyChain-v0'; found {self.id!r}")
        if not isinstance(self.kwargs, dict) or not all(isinstance(key, str) for key in self.kwargs):
            raise UserError(
                f"the arguments of environment {self.id!r} are a mapping from names to values; found {self.kwargs!r}"
            )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'a' or 'b'?` with the nearest of `known`, regardless of case; empty when nothing is near."""
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.7)
    if not near:
        return ""
    return " Did you mean " + " or ".join(repr(by_folded[folded]) for folded in near) + "?"
