"""What the ranks of tests/test_distributed.py run; importable by name from a child process, as `launch` needs it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trpd_agents.distributed import World
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn, pad_scored

ITEMS = list("abcde")


def collectives(world: World) -> dict[str, Any]:
    """Every meeting point once, with values that differ by rank."""
    mine = world.shard(ITEMS)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    unused = torch.nn.Parameter(torch.zeros(3))
    missing_here = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.full((2, 2), 1.0 + world.rank)
    if world.rank == 0:
        missing_here.grad = torch.tensor([5.0])
    world.sum_gradients([weight, unused, missing_here])
    return {
        "mine": mine,
        "whole": world.unshard([item.upper() for item in mine]),
        "one": world.unshard(world.shard(["only"])),
        "none": world.unshard(world.shard([])),
        "sum": world.sum(1.0 + world.rank, 2**40 + world.rank),
        "gather": world.gather({"rank": world.rank}),
        "gradients": [p.grad.tolist() for p in (weight, unused, missing_here) if p.grad is not None],
    }


def trajectories() -> list[Trajectory]:
    """Conversations of different lengths with made-up tokens; the third has a turn the teacher wrote."""
    rng = np.random.default_rng(0)
    made = []
    for i, n in enumerate((12, 30, 21, 40, 9)):
        turns = [
            Turn((0, 3), (3, 7), "teacher" if i == 2 else "student", Stop.END, "", ""),
            Turn((7, 8), (8, n), "student", Stop.END, "", ""),
        ]
        logprobs = np.full(n, np.nan, dtype=np.float32)
        trajectory = Trajectory(
            id=i,
            env_id="",
            env_kwargs={},
            seed=i,
            tokens=rng.integers(3, 262, n).astype(np.int32),
            logprobs=logprobs,
            turns=turns,
            outcome=Outcome.TERMINATED,
            success=True,
            reward=0.0,
        )
        logprobs[trajectory.authored("student")] = -5.0
        made.append(trajectory)
    return made


def learner_step(world: World, payload: dict[str, Any]) -> dict[str, Any]:
    """Figures of one update of this rank's share, and the gradients that all ranks agreed on, one after the other."""
    # Imported here: the other functions start seconds sooner without transformers.
    from trpd_agents.config import LearnerConfig
    from trpd_agents.credit import CreditConfig, assign_credit
    from trpd_agents.credit.config import FullEstimator, TurnMeanNormaliser
    from trpd_agents.learner import Learner
    from trpd_agents.models import load_model
    from trpd_agents.teacher import LocalTeacher

    torch.set_num_threads(1)
    student, taught = load_model(payload["student"]), load_model(payload["teacher"])
    method = CreditConfig(estimator=FullEstimator(), normaliser=TurnMeanNormaliser(share=0.5))
    teacher = LocalTeacher(taught, keep_hidden=True)
    batch = world.shard(trajectories())
    for trajectory, scores in zip(batch, teacher.score(batch), strict=True):
        trajectory.scores = scores
    settings = LearnerConfig(lr=1e-3, grad_clip=1e9, minibatches=payload.get("minibatches", 1))
    learner = Learner(student, settings, world)
    gradients: list[torch.Tensor] = []
    learner.optimizer.step = lambda *args, **kwargs: gradients.extend(  # type: ignore[method-assign]
        p.grad.clone().reshape(-1) for p in learner.parameters if p.grad is not None
    )
    figures = learner.update(batch, assign_credit(pad_scored(batch), method), method, teacher, progress=0.0)
    return {"figures": figures, "gradient": torch.cat(gradients).tolist()}


def all_checks(world: World, payload: dict[str, Any]) -> dict[str, Any]:
    found = {"collectives": collectives(world), "step": learner_step(world, payload)}
    return {"ranks": world.gather(found)}


def die(world: World, payload: dict[str, Any]) -> None:
    if world.rank == 1:
        raise OSError("the disk of rank one is full")
    world.sum(1.0)


def linger(world: World, payload: dict[str, Any]) -> None:
    """Rank 1 says who it is and waits in a collective that never happens; so does rank 0."""
    if world.rank == 1:
        Path(payload["file"]).write_text(str(os.getpid()))
        world.sum(1.0)
    else:
        time.sleep(600)
