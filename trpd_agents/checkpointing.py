"""What a checkpoint holds beside the weights: everything that decides the next step.

Episodes, sampling and the gate draw from counter-based generators keyed by the run's seed and the step, and so carry no
state; the process-wide generators are kept too, for models with dropout and environments that use them. Episodes that
were played ahead, with weights that are gone, are kept as they are.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trpd_agents.checkpoints import Checkpoint, save_state
from trpd_agents.distributed import World
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel
from trpd_agents.storage import read_trajectories, write_trajectories
from trpd_agents.trajectory import Trajectory

_AHEAD = "ahead.parquet"


@dataclass(frozen=True)
class LoopState:
    """What the steps so far leave to the next ones beside the models. Plain values, the same on every rank."""

    step: int = 0  # updates done
    environment_steps: int = 0  # turns played for them
    added_turns: int = 0  # by a curriculum that probes
    recent: torch.Tensor = field(default_factory=lambda: torch.zeros(0))  # [n] turn divergences, oldest first
    owes_evaluation: bool = False  # one is due here, and not made


@dataclass(frozen=True)
class Batch:
    """The episodes of one step as this rank played them, at most `cap` turns each.

    `environment_steps` counts this rank's turns, those of attempts that failed included; `seconds` are the collector's.
    """

    played: list[Trajectory]
    cap: int
    environment_steps: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Boundary:
    """Where a run stands between two steps, all ranks together: what rank 0 alone can write, whenever it has to."""

    loop: LoopState
    optimizer_steps: int
    rng: list[dict[str, Any]]  # by rank
    ahead: Batch | None  # of all ranks


def at_boundary(world: World, learner: Learner, loop: LoopState, ahead: Batch | None) -> Boundary:
    """Where the run stands now, with the batch that was played `ahead` on this rank. All ranks call it."""
    everybodys = None
    if ahead is not None:
        turns = int(world.sum(float(ahead.environment_steps))[0])
        everybodys = Batch(world.unshard(ahead.played), ahead.cap, turns, ahead.seconds)
    return Boundary(loop, learner.steps, world.gather(_random_state()), everybodys)


def write_checkpoint(
    folder: Path, student: LanguageModel, learner: Learner, boundary: Boundary, carried: dict[str, Any]
) -> None:
    """Fill `folder` with the student and the state at `boundary`, where the learner still is; `carried` is plain data
    to keep along. Rank 0 alone calls it."""
    student.save(folder / "student")
    ahead = boundary.ahead
    if ahead is not None:
        write_trajectories(folder / _AHEAD, ahead.played)
    save_state(
        folder,
        {
            "learner": learner.state_dict(),
            "loop": {f.name: getattr(boundary.loop, f.name) for f in dataclasses.fields(LoopState)},
            "rng": boundary.rng,
            "carried": carried,
            "ahead": ahead and {"cap": ahead.cap, "turns": ahead.environment_steps, "seconds": ahead.seconds},
        },
    )


def restore(world: World, learner: Learner, checkpoint: Checkpoint) -> tuple[LoopState, Batch | None, dict[str, Any]]:
    """Put the state back and return the loop's, the batch that was played ahead, and what was carried. With another
    number of ranks the process-wide generators start afresh.
    """
    state = checkpoint.state()
    learner.load_state_dict(state["learner"])
    if len(state["rng"]) == world.size:
        _set_random_state(state["rng"][world.rank])
    ahead = None
    if said := state.get("ahead"):
        played = world.shard(read_trajectories(checkpoint.path / _AHEAD))
        ahead = Batch(played, said["cap"], said["turns"] if world.rank == 0 else 0, said["seconds"])
    return LoopState(**state["loop"]), ahead, state["carried"]


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
