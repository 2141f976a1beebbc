"""Runs made by hand, whose weights and reasons follow from the numbers put in; with texts that try to break a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from trpd_agents import storage
from trpd_agents.storage import write_trajectories
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn

CONFIG = """
seed: 0
env: {id: KeyChain-v0}
student: {model: builtin:tiny}
teacher: {model: builtin:tiny}
credit: {preset: hysteresis, divergence: {kind: excess}, rule: {enter: 0.5, leave: 0.2, patience: 2}}
learner: {lr: 1.0e-3}
training: {steps: 20, episodes_per_step: 2, save_trajectories_every: 10}
"""
# nats of two tokens in each of seven turns: turn 1 leads outside, turn 2 is refused, 3 and 4 agree and lead back
LOG_RATIOS = [[0.0, -0.1], [-1.0, -0.42], [0.0, 0.0], [0.1, 0.0], [-0.1, 0.0], [0.0, 0.0], [5.0, -6.0]]
REFUSED = 2
WHY = {
    2: "outside since turn 1, divergence 0.71 > 0.50",
    3: "outside since turn 1, divergence 0.71 > 0.50, last call failed",
    4: "outside since turn 1, divergence 0.71 > 0.50, 1 of 2 turns agreed since",
}

NASTY = (
    "{{7*7}}<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\x1b[31mred\x1b[0m\u202eevil\u2066\x07"
)
"""A template, markup, terminal codes, a changed direction of writing, a bell."""


def make_episode(
    key: int,
    *,
    seed: int | None = None,
    ratios: Sequence[Sequence[float]] = LOG_RATIOS,
    text: str = "done",
    success: bool | None = True,
    error: str | None = None,
    guided: Sequence[int] = (),
    ids: Sequence[int] = (5, 6),
    top: bool = True,
) -> Trajectory:
    turns, positions = [], []
    for k in range(len(ratios)):
        start = 3 * k + 1
        author = "teacher" if k in guided else "student"
        calls = [{"name": "go", "arguments": {"room": text}}]
        turns.append(
            Turn(
                (start - 1, start), (start, start + 2), author, Stop.END, f"seen {k} {text}", f"{text} {k}", calls=calls
            )
        )
        turns[-1].ok = k != REFUSED
        positions += [start, start + 1]
    at = np.array(positions)
    tokens = np.full(3 * len(ratios), 4, dtype=np.int32)
    tokens[at] = np.tile(ids, len(ratios))
    logprobs = np.full(len(tokens), np.nan, dtype=np.float32)
    logprobs[at] = -7.0
    for k in guided:
        logprobs[3 * k + 1 : 3 * k + 3] = np.nan
    lt = np.array(ratios, dtype=np.float32).ravel() - 7
    alternatives = (np.tile(np.array([[7, 8]], np.int32), (len(at), 1)), np.full((len(at), 2), -0.5, np.float32))
    return Trajectory(
        id=key,
        env_id="KeyChain-v0",
        env_kwargs={"length": 3},
        seed=key if seed is None else seed,
        tokens=tokens,
        logprobs=logprobs,
        turns=turns,
        outcome=Outcome.ERROR if error else Outcome.TERMINATED,
        success=None if error else success,
        reward=1.0,
        final_observation=f"end {text}",
        error={"kind": error, "message": f"broke {text}"} if error else None,
        scores=None if error else Scores(at, lt, *(alternatives if top else (None, None))),
        instructions=f"do it {text}",
        tools=[{"type": "function", "function": {"name": "go", "description": text}}],
    )


def metrics(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step, "episodes": 2, "environment_failures": 0, "success": 0.5, "turns": 7.0, "refused_share": 0.1,
        "cut_off_share": 0.0, "action_tokens": 28, "kept_share": 0.6, "forward_kl_share": 0.0, "outside_share": 0.4,
        "kl": 0.3, "grad_norm": 1.0, "seconds_rollout": 1.0, "seconds_update": 0.5, "sampler_gap": 1e-6,
        "teacher_logprob_invalid": 0, "teacher_unavailable": 0, "kept_share_by_turn": [1.0, 0.5, None],
        "action_tokens_by_turn": [4.0, 4.0, 0.0], "divergence_by_turn": [0.1, 0.3, None],
        "counted_by_turn": [2.0, 2.0, 0.0],
        **changes,
    }  # fmt: skip


def evaluation(flags: Sequence[bool], step: int = 0) -> dict[str, Any]:
    outcomes = {str(1_000_000 + k): [flag] for k, flag in enumerate(flags)}
    return {"step": step, "outcomes": outcomes, "mean_turns": 3.0, "errors": {}, "endings": {"terminated": len(flags)}}


def make_run(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str = "run",
    stored: dict[int, list[Trajectory]] | None = None,
    *,
    config: str = CONFIG,
    rows: Sequence[dict[str, Any]] | None = None,
    evaluations: dict[str, Any] | None = None,
    finished: bool = True,
) -> Path:
    """The directory of a run; `stored` are its episodes by update."""
    path = tmp_path / name
    path.mkdir()
    (path / "config.yaml").write_text(config)
    tokenizer.save_pretrained(path / "student")
    stored = {1: [make_episode(0), make_episode(1, success=False)]} if stored is None else stored
    for step, episodes in stored.items():
        write_trajectories(path / "trajectories" / f"step-{step:06d}.parquet", episodes)
    lines = [metrics(step) for step in range(1, 21)] if rows is None else rows
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    evaluations = {
        "before": evaluation([False] * 30 + [True] * 10),
        "teacher": evaluation([True] * 40),
        "after": evaluation([True] * 40, 20),
    } if evaluations is None else evaluations  # fmt: skip
    (path / "evaluations.json").write_text(json.dumps(evaluations))
    if finished:
        (path / "summary.json").write_text(json.dumps({"seconds": {"rollout": 2.0, "rollout_generate": 1.0}}))
    return path


def data_file(report: Path, name: str) -> Any:
    """What a data file gives to the page."""
    text = (report / "data" / f"{name}.js").read_text(encoding="ascii")
    head = f'trpd.give("{name}",'
    assert text.startswith(head) and text.endswith(");\n") and "<" not in text
    return json.loads(text[len(head) : -3])


def newer_schema() -> pa.Schema:
    """That of a later version of the stored trajectories."""
    return storage.SCHEMA.with_metadata({"trpd_agents.format": "2"})
