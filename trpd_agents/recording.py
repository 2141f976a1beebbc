"""What a training step leaves behind: metrics, stored trajectories, checkpoints, its line in the progress display."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError

from trpd_agents.checkpointing import Boundary, write_checkpoint
from trpd_agents.config import RunConfig
from trpd_agents.distributed import World
from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.learner import Learner
from trpd_agents.metrics import MetricsWriter
from trpd_agents.models import LanguageModel
from trpd_agents.run_directory import RunDirectory
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.storage import write_trajectories
from trpd_agents.textenv.blame import blame
from trpd_agents.trajectory import Trajectory

PHASES = ("rollout", "score", "credit", "update")


def account(watch: Stopwatch, figures: Mapping[str, Any], inside_rollout: Mapping[str, float]) -> dict[str, float]:
    """Seconds of this step by phase and tokens per second of the whole step; adds the step's tokens to the run's.

    `inside_rollout` are the seconds that the rollout spent in the engine and in environments, by name.
    """
    watch.tokens["rollout"] += int(figures["action_tokens"] + figures["guided_tokens"])
    watch.tokens["score"] += int(figures["tokens"])
    watch.tokens["update"] += int(figures["updated_tokens"])
    for name, spent in inside_rollout.items():
        watch.seconds[f"rollout_{name}"] += spent
    seconds = {f"seconds_{name}": watch.take(name) for name in PHASES}
    total = sum(seconds.values())
    return {
        **seconds,
        **{f"seconds_{name}": spent for name, spent in inside_rollout.items()},
        "tokens_per_second": figures["tokens"] / total if total else 0.0,
    }


def headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """The few figures of a step that the progress display shows."""
    return {
        "success": figures["success"],
        "kept": figures["kept_share"],
        "KL": figures["kl"],
        "tokens/s": figures["tokens_per_second"],
    }


def record(
    world: World,
    config: RunConfig,
    directory: RunDirectory,
    writer: MetricsWriter | None,
    step: int,
    figures: Mapping[str, Any],
    played: Sequence[Trajectory],
) -> None:
    """Write the metrics of the `step`-th update, and its trajectories when they are due. All ranks call it."""
    if writer is not None:
        with stored(directory, f"the metrics of step {step}"):
            writer.write(step, figures)
    every = config.training.save_trajectories_every
    if every and (step == 1 or step % every == 0):
        bare = [
            dataclasses.replace(t, scores=None if t.scores is None else dataclasses.replace(t.scores, hidden=None))
            for t in played
        ]
        trajectories = world.unshard(bare)
        if world.rank == 0:
            with stored(directory, f"the trajectories of step {step}"):
                write_trajectories(directory.path / "trajectories" / f"step-{step:06d}.parquet", trajectories)
        if writer is not None:
            writer.show(step, trajectories)


def save(
    config: RunConfig,
    directory: RunDirectory,
    boundary: Boundary,
    student: LanguageModel,
    learner: Learner,
    watch: Stopwatch,
) -> None:
    """Write a checkpoint of where the run stands. Rank 0 alone calls it.

    Raises:
        RunError: the disk is full, or the directory can no longer be written.
    """
    carried = {"seconds": dict(watch.seconds), "tokens": dict(watch.tokens)}
    step = boundary.loop.step
    with stored(directory, f"the checkpoint of step {step}"):
        directory.sync_metrics()
        directory.checkpoints.save(
            step,
            lambda folder: write_checkpoint(folder, student, learner, boundary, carried),
            config.training.keep_checkpoints,
            config.model_dump(mode="json"),
        )


@contextmanager
def working(directory: RunDirectory, who: str, step: int) -> Iterator[None]:
    """Within the block `who` does its part of the `step`-th update.

    Raises:
        RunError: it raised what says nothing to a user; a line of code is named.
    """
    try:
        yield
    except (UserError, RunError, EnvironmentFailure):
        raise
    except Exception as error:
        raise RunError(
            f"{who} failed in step {step}: {blame(error)}. All that was written before is whole; once that is mended, "
            f"go on with: trpd train --resume {directory.path}"
        ) from error


@contextmanager
def stored(directory: RunDirectory, what: str) -> Iterator[None]:
    """Within the block `what` is written to the run directory.

    Raises:
        RunError: it cannot be. What was there before is still whole.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        free = shutil.disk_usage(directory.path).free / 2**20
        raise RunError(
            f"{what} could not be written to {directory.path} ({free:,.0f} MiB free): {error}. All that was written "
            f"before is whole; make room, or the directory writable, and go on with: "
            f"trpd train --resume {directory.path}"
        ) from error
