"""What conversations that begin have in common, so that it is encoded once.

Two things are shared: a whole beginning that several conversations are given (the members of a group), and the longest
prefix of those that differ (instructions). Invariant: only exactly equal ids at the same positions are ever shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WORTHWHILE = 8  # tokens; less is sooner encoded again than copied


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    size = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:size]) != np.asarray(second[:size]))
    return int(differ[0]) if len(differ) else size


def twins(beginnings: Sequence[Sequence[int]]) -> list[int]:
    """For each beginning the index of the first one that is equal to it."""
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(tuple(beginning), i) for i, beginning in enumerate(beginnings)]


def shared_length(beginnings: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix common to all: what the lexically first and last have in common, all have."""
    ordered = [tuple(beginning) for beginning in beginnings]
    return common_length(min(ordered), max(ordered))


def best_donor(beginning: Sequence[int], donors: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Which of `donors` has the longest prefix in common with `beginning`, and its length; (0, 0) without donors."""
    lengths = [common_length(beginning, donor) for donor in donors]
    best = int(np.argmax(lengths)) if lengths else 0
    return best, lengths[best] if lengths else 0
