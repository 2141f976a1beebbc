"""Figures that no rank could give alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trpd_agents.distributed import World
from trpd_agents.metrics import counted_divergences

DIVERGENCE = {3: [0.1, 0.2, 0.3], 8: [0.4, 0.5, 0.6], 1: [0.7, 0.8, 0.9], 6: [1.0, 1.1, 1.2]}
COUNTS = {3: [True, False, True], 8: [True, True, True], 1: [False, False, False], 6: [False, True, False]}
WANTED = [0.1, 0.3, 1.1, 0.4, 0.5, 0.6]  # by id, then by turn


def share(ids: list[int]) -> tuple[list[Any], Any]:
    credit = SimpleNamespace(
        turn_divergence=torch.tensor([DIVERGENCE[i] for i in ids]).reshape(-1, 3),
        turn_counts=torch.tensor([COUNTS[i] for i in ids], dtype=torch.bool).reshape(-1, 3),
    )
    return [SimpleNamespace(id=i) for i in ids], credit


@dataclasses.dataclass(frozen=True)
class Ranks(World):
    """Meets ranks that hold `others`."""

    others: tuple[list[int], ...] = ()

    def gather(self, value: Any) -> list[Any]:
        return [*(counted_alone(ids) for ids in self.others), value]


def counted_alone(ids: list[int]) -> dict[int, list[float]]:
    return {i: [d for d, c in zip(DIVERGENCE[i], COUNTS[i], strict=True) if c] for i in ids}


@pytest.mark.parametrize(
    ("own", "others"), [([3, 8, 1, 6], ()), ([6, 1, 8, 3], ()), ([8, 1], ([3, 6],)), ([], ([1, 3], [6, 8]))]
)
def test_divergences_come_in_the_same_order_whoever_played(own, others):
    found = counted_divergences(Ranks(others=others), *share(own))
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(WANTED)
