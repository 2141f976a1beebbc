"""What a checkpoint holds beside the weights: everything that decides the next step.

Episodes, sampling and the gate draw from counter-based generators keyed by the run's seed and the step, and so carry no
state; the process-wide generators are kept too, for models with dropout and environments that use them.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trpd_agents.distributed import World
from trpd_agents.learner import Learner


@dataclass(frozen=True)
class LoopState:
    """What the steps so far leave to the next ones beside the models. Plain values, the same on every rank."""

    step: int = 0  # updates done
    environment_steps: int = 0  # turns played for them
    added_turns: int = 0  # by a curriculum that probes
    recent: torch.Tensor = field(default_factory=lambda: torch.zeros(0))  # [n] turn divergences, oldest first


def snapshot(world: World, learner: Learner, loop: LoopState, carried: dict[str, Any]) -> dict[str, Any]:
    """The state of a run after a step. All ranks call it; `carried` is plain data of rank 0 to keep along."""
    return {
        "learner": learner.state_dict(),
        "loop": {f.name: getattr(loop, f.name) for f in dataclasses.fields(loop)},
        "rng": world.gather(_random_state()),
        "carried": carried,
    }


def restore(world: World, learner: Learner, state: dict[str, Any]) -> tuple[LoopState, dict[str, Any]]:
    """Put a `snapshot` back and return the loop's state and what was carried. With another number of ranks the
    process-wide generators start afresh.
    """
    learner.load_state_dict(state["learner"])
    if len(state["rng"]) == world.size:
        _set_random_state(state["rng"][world.rank])
    return LoopState(**state["loop"]), state["carried"]


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
