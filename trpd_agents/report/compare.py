"""Two runs on the same episodes: which of them went differently, and from which turn on.

Invariant: episodes are paired by environment, arguments and seed (the k-th of one run with the k-th of the other), and
never otherwise; memory is 16 bytes a turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trpd_agents.report.chunks import environment
from trpd_agents.report.figures import difference_of, outcomes_of
from trpd_agents.report.files import RunFiles
from trpd_agents.report.text import one_line
from trpd_agents.trajectory import Trajectory

_HALF = 8  # bytes of a hash

SAME, ACTED, SHOWN, ENDED = "same", "acted", "shown", "ended"
"""How two episodes part: not at all; another action; another observation after the same actions; one of them ended."""


@dataclass
class Prints:
    """Of a run's episodes, in their order: where each belongs, and what happened in it, turn by turn."""

    places: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    turns: list[bytes] = field(default_factory=list)

    def add(self, t: Trajectory) -> None:
        self.places.setdefault((environment(t), t.seed), []).append(len(self.turns))
        self.turns.append(b"".join(_hash(turn.observation) + _hash(turn.text) for turn in t.turns))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_HALF).digest()


def parting(a: bytes, b: bytes) -> tuple[int, str]:
    """The first turn at which two episodes differ, and how; the number of turns where they do not."""
    for start in range(0, min(len(a), len(b)), 2 * _HALF):
        middle, end = start + _HALF, start + 2 * _HALF
        if a[start:middle] != b[start:middle]:
            return start // (2 * _HALF), SHOWN
        if a[middle:end] != b[middle:end]:
            return start // (2 * _HALF), ACTED
    turns = min(len(a), len(b)) // (2 * _HALF)
    return turns, SAME if len(a) == len(b) else ENDED


def pairs(a: Prints, b: Prints) -> dict[str, list[Any]]:
    """Columns: the episode's number in each run's index, the turn at which the two part, and how."""
    found: dict[str, list[Any]] = {"a": [], "b": [], "turn": [], "how": []}
    for key, places in a.places.items():
        for i, j in zip(places, b.places.get(key, ()), strict=False):
            turn, how = parting(a.turns[i], b.turns[j])
            for name, value in zip(found, (i, j, turn, how), strict=True):
                found[name].append(value)
    return found


def side_by_side(a: RunFiles, b: RunFiles) -> list[dict[str, Any]]:
    """The evaluations that both runs have, on the seeds that both played: rates, and `b` minus `a`."""
    rows = []
    for name in [name for name in a.evaluations if name in b.evaluations]:
        first, second = (outcomes_of(run.evaluations[name]) for run in (a, b))
        shared = sorted(first.keys() & second.keys())
        change = difference_of(a.evaluations[name], b.evaluations[name])
        if change is None:
            continue
        won = [(_rate(first[seed]), _rate(second[seed])) for seed in shared]
        rows.append(
            {
                "name": name,
                "seeds": len(shared),
                "a": sum(x for x, _ in won) / len(won),
                "b": sum(y for _, y in won) / len(won),
                "difference": change,
                "only_a": sum(x > y for x, y in won),
                "only_b": sum(x < y for x, y in won),
            }
        )
    return rows


def _rate(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def settings_that_differ(a: RunFiles, b: RunFiles) -> list[tuple[str, str, str]]:
    """Key, value in `a`, value in `b`; empty where a configuration could not be read."""
    if a.config is None or b.config is None:
        return []
    first, second = (_flat(run.config.model_dump(mode="json")) for run in (a, b) if run.config is not None)
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [(one_line(key), one_line(str(first.get(key, "-"))), one_line(str(second.get(key, "-")))) for key in keys]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
