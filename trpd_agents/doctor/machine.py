"""What the run will compute on, and whether its settings suit that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from trpd_agents.config import ModelConfig, RunConfig
from trpd_agents.doctor.finding import Check, Finding, error, ok, warning
from trpd_agents.models import pick_autocast, pick_device, resolve_model
from trpd_agents.teacher.of_run import teachers_of

GB = 1e9
_LARGE = 2e9  # bytes of weights beyond which a CPU is slow
_SPARE = 2.0  # times what is needed, below which it is worth a word


def _machine(config: RunConfig) -> Finding:
    device = pick_device(config.learner.device)
    half = pick_autocast(config.learner.dtype, device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores} cores"
    found = f"{device.type} ({name}), {'bfloat16' if half else 'float32'}, {config.training.ranks} processes"
    if threads := os.environ.get("OMP_NUM_THREADS"):
        found += f", OMP_NUM_THREADS={threads}"
    if config.training.ranks > cores:
        return warning(found, f"More processes than cores wait for each other: set training.ranks={cores} or fewer.")
    if device.type == "cpu" and _weights(config.student) > _LARGE:
        return warning(found, "A student of that size takes hours a step on a CPU: use a GPU, or a smaller model.")
    if device.type == "cuda" and not half:
        return warning(found, "float32 on a GPU is several times slower: learner.dtype=auto, unless it is meant.")
    return ok(found)


def _disk(config: RunConfig) -> Finding:
    """Weights as they lie on disk stand for what a checkpoint holds: the student, and two moments in float32."""
    student = _weights(config.student)
    if not student:
        return ok("the models are not on this disk, so their size is not known here")
    teachers = sum(_weights(s) for s in teachers_of(config).values() if isinstance(s, ModelConfig))
    one = 3 * student
    kept = config.training.keep_checkpoints + 2  # the best one, and one that is being written
    needed = kept * one + student + teachers
    where = Path("runs") if Path("runs").exists() else Path()
    free = shutil.disk_usage(where).free
    found = (
        f"{needed / GB:.2g} GB for {kept} checkpoints of {one / GB:.2g} GB and the models; {free / GB:.3g} GB free here"
    )
    fix = "Make room, lower training.keep_checkpoints, or give a --run-dir on another disk."
    if free < needed:
        return error(found, fix)
    return warning(found, fix) if free < _SPARE * needed else ok(found)


def _weights(model: ModelConfig) -> int:
    """Bytes of float32 weights; 0 where they are not on this disk."""
    folder = Path(resolve_model(model.model))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


MACHINE = Check("machine", "a device, a precision and processes that suit each other", _machine)
DISK = Check("disk", "room for the checkpoints that are kept", _disk)
