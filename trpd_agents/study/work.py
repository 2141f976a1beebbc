"""The two kinds of work in a study, as a worker process does them: making and evaluating a model, and one run.

What is finished is told by a file that is written last: `models/*.json` for a model, `member.json` in a member's run
directory. Without it the work is not done, whatever else is there.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trpd_agents import __version__
from trpd_agents.config import ModelConfig, OracleTeacherConfig, RunConfig, dump_config
from trpd_agents.distributed import World
from trpd_agents.errors import UserError
from trpd_agents.evaluation import evaluate_expert, turn_limit
from trpd_agents.imitation import is_prepared, prepare_model
from trpd_agents.models import read_outline
from trpd_agents.preparation import evaluate_model
from trpd_agents.progress import Progress
from trpd_agents.run_directory import RunDirectory
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.study.plan import ModelJob
from trpd_agents.textenv import EnvSpec
from trpd_agents.training import train

MEMBER = "member.json"
LEFT_OUT = ("checkpoints", "student", "teacher", "tensorboard")  # of a finished member, unless models are kept


def do(payload: Mapping[str, Any]) -> None:
    """One job, described by plain data: `kind` is "model" or "member"."""
    config = RunConfig.model_validate(payload["config"])
    random.seed(config.seed)  # a worker does many jobs: none may depend on the one before it
    np.random.seed(config.seed % 2**32)
    if payload["kind"] == "model":
        _make_model(config, payload)
    else:
        _run_member(config, payload)


def is_made(job: ModelJob) -> bool:
    """Whether a start or a teacher is there to be loaded."""
    section, env = getattr(job.config, job.who), EnvSpec(job.config.env.id, job.config.env.kwargs)
    max_turns = turn_limit(env, job.config.env.max_turns)
    return not isinstance(section, ModelConfig) or is_prepared(
        section, env, learner=job.config.learner, max_turns=max_turns
    )


def _make_model(config: RunConfig, payload: Mapping[str, Any]) -> None:
    started, watch = time.perf_counter(), Stopwatch()
    section = getattr(config, payload["who"])
    env = EnvSpec(config.env.id, config.env.kwargs)
    max_turns = turn_limit(env, config.env.max_turns)
    if isinstance(section, ModelConfig):
        lm, _ = prepare_model(section, env, learner=config.learner, max_turns=max_turns)
        found = evaluate_model(World(), config, lm, max_turns, Progress(), watch, f"evaluate {payload['who']}")
    elif not isinstance(section, OracleTeacherConfig):
        raise UserError(
            f"teacher.kind={section.kind}: a study evaluates its teachers before any run, and can do so with 'local' "
            "and 'oracle' only; compare others by runs of `trpd train`"
        )
    else:  # the oracle, which is no model: the expert plays
        tokenizer = read_outline(config.student.model, config.student.trust_remote_code).tokenizer
        evaluation = config.evaluation
        found = evaluate_expert(env, tokenizer, evaluation.episodes, max_turns=max_turns, seed=evaluation.seed)
    write_json(
        Path(payload["file"]),
        {
            "model": section.model_dump(mode="json"),
            **found.summary(),
            "outcomes": {str(seed): flags for seed, flags in found.outcomes.items()},
            "seconds": round(time.perf_counter() - started, 3),
        },
    )


def _run_member(config: RunConfig, payload: Mapping[str, Any]) -> None:
    started, folder = time.perf_counter(), Path(payload["folder"])
    goes_on = _can_go_on(folder, config)
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    summary = train(config, None if goes_on else folder, folder if goes_on else None)
    if not payload["keep_models"]:
        for name in LEFT_OUT:
            shutil.rmtree(folder / name, ignore_errors=True)
    write_json(
        folder / MEMBER,
        {
            **payload["told"],
            "version": __version__,
            "learning_rate": config.learner.lr,
            "wall_seconds": round(time.perf_counter() - started, 3),
            "seconds": summary["seconds"],
            "tokens": summary["tokens"],
        },
    )


def _can_go_on(folder: Path, config: RunConfig) -> bool:
    """Whether there is a whole checkpoint of the same configuration."""
    begun = folder / "config.yaml"
    if not begun.is_file() or begun.read_text(encoding="utf-8") != dump_config(config):
        return False
    try:
        checkpoint = RunDirectory.open(folder).checkpoints.newest()
    except UserError as error:
        print(f"starting anew: {error}", flush=True)
        return False
    if checkpoint is not None:
        print(f"going on after update {checkpoint.step}", flush=True)
    return checkpoint is not None


def write_json(file: Path, data: Any) -> None:
    """Write so that a file that is there is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.half")
    half.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    half.replace(file)


def read_json(file: Path) -> Any:
    """What `write_json` wrote; None if it is not there or unreadable, which is the same as never written."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
