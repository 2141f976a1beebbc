"""Our side: the ordinary `trpd_agents.train`, held between two steps until the next one is asked for.

The time of a step is that of one whole pass through the training loop: everything that `trpd train` does, metrics
written and checks included.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side import Side

import trpd_agents
from trpd_agents import training
from trpd_agents.config import RunConfig

HERE = Path(__file__).parent


def main() -> None:
    torch.set_num_threads(1)
    side = Side()
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        training.episodes_of = gated(side, run_dir / "metrics.jsonl", training.episodes_of)
        trpd_agents.train(configuration(side), run_dir, quiet=True)


def configuration(side: Side) -> RunConfig:
    """Plain on-policy distillation with the exact reverse KL, everything else at its default."""
    task = side.task
    return RunConfig.model_validate(
        {
            "env": {
                "id": f"{HERE / 'lookup_env.py'}:Lookup",
                "kwargs": {"turns": task.turns, "answer_words": task.answer_words},
            },
            "student": {"model": f"{task.models}/student"},
            "teacher": {"model": f"{task.models}/teacher"},
            "rollout": {"max_new_tokens": task.action_tokens, "max_tokens": task.conversation_tokens},
            "credit": {"preset": "opd", "estimator": "full"},
            "learner": {"lr": 1e-6, "dtype": "float32", "device": "cpu"},
            "training": {
                "steps": 10**6,
                "episodes_per_step": task.episodes,
                "checkpoint_every": 10**6,
                "save_trajectories_every": 0,
            },
            "evaluation": {"before": False, "teacher": False},
        }
    )


def gated(side: Side, metrics: Path, episodes_of: Callable[..., Any]) -> Callable[..., Any]:
    """`episodes_of`, which the loop calls at the start of every step, reporting the step before and waiting."""
    started = cpu_started = waited = 0.0

    def episodes(config: RunConfig, step: int) -> Any:
        nonlocal started, cpu_started, waited
        entered, cpu_entered = time.perf_counter(), time.process_time()
        if step == 0:
            side.answer({"ready": True})
        else:
            figures = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
            cpu = cpu_entered - cpu_started
            side.answer({**measured(entered - started, waited, figures), "cpu_seconds": cpu})
        side.wait()
        started, cpu_started = time.perf_counter(), time.process_time()
        waited = started - entered
        return episodes_of(config, step)

    return episodes


def measured(seconds: float, waited: float, figures: dict[str, float]) -> dict[str, Any]:
    """One step of `seconds`; the loop's own clock of the rollout runs while this side waits."""
    phases = {
        "rollout, model": figures["seconds_generate"],
        "rollout, tools and text": figures["seconds_rollout"] - waited - figures["seconds_generate"],
        "teacher": figures["seconds_score"],
        "update": figures["seconds_update"],
    }
    return {
        "seconds": seconds,
        "phases": {**phases, "rest": seconds - sum(phases.values())},
        "counts": {
            "tokens": round(figures["tokens"]),
            "action_tokens": round(figures["action_tokens"]),
            "turns": round(figures["turns"] * figures["episodes"]),
        },
        "loss": figures["reverse_kl"],
    }


if __name__ == "__main__":
    main()
