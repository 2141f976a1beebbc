"""Credit computed again: a run's stored trajectories, with the teacher's stored scores, under another method.

No model is loaded and nothing is played, so this takes seconds; it is for choosing thresholds. What it cannot show is
what the student would have become: the trajectories are those that the run's own method led to.

Invariant: the run's own side is what training computed, draws of a Bernoulli gate included, because the same function
gets the same scores, step and seed. (Quantile thresholds alone differ: they only see the steps that were stored.)
Nothing in the run's directory is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from trpd_agents.config import RunConfig, load_config
from trpd_agents.credit import DESCRIPTIONS, Credit, Reason, assign_credit
from trpd_agents.credit.config import CreditConfig, EntropyOutliers, Thresholds
from trpd_agents.errors import UserError
from trpd_agents.storage import read_trajectories
from trpd_agents.trajectory import ScoredBatch, Trajectory, pad_scored

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_AT_ONCE = 64  # trajectories: bounds the memory of the padded top tokens


@dataclass(frozen=True)
class StoredRun:
    """A run's configuration and the files of its stored steps. The n-th update has the number n, counted from 1."""

    path: Path
    config: RunConfig
    files: dict[int, Path]


@dataclass(frozen=True)
class Side:
    """What one method does with the stored tokens. Lists have one entry per turn index, None where nothing was seen."""

    kept_share: list[float | None]  # of the turn's action tokens: a weight above 0 in either KL stream
    policy_weight: list[float | None]  # mean over the turn's action tokens
    kept_share_all: float
    policy_weight_all: float
    forward_kl_weight_all: float
    reasons: dict[str, int]  # tokens by reason, in words
    divergence: list[list[float] | None]  # `QUANTILES` over the turns that count


@dataclass(frozen=True)
class Comparison:
    """The run's own method and another one on the same tokens."""

    steps: list[int]
    trajectories: int
    tokens: list[int]  # action tokens per turn index
    own: Side
    new: Side
    dropped: int  # action tokens with weight under the run's own method and none under the new one
    gained: int  # the other way round
    notes: list[str]  # what this comparison cannot show
    columns: dict[str, np.ndarray] = field(repr=False)  # per action or guided token: see `_columns`


def open_run(path: Path, steps: Sequence[int] = ()) -> StoredRun:
    """The stored steps of the run at `path`, or those of them that `steps` names.

    Raises:
        UserError: not a run directory; nothing is stored, or not the steps asked for.
    """
    if not (path / "config.yaml").is_file():
        what = "has no config.yaml" if path.is_dir() else "is no directory"
        raise UserError(f"{path} {what}; give the directory of a run that `trpd train` made")
    config = load_config(path / "config.yaml")
    files = {
        int(match[1]): file
        for file in sorted((path / "trajectories").glob("step-*.parquet"))
        if (match := re.fullmatch(r"step-(\d+)\.parquet", file.name))
    }
    every = config.training.save_trajectories_every
    if not files:
        raise UserError(
            f"{path} holds no stored trajectories; training.save_trajectories_every says which steps are stored and is "
            f"{every} in this run (0: none; N: the first and every N-th)"
        )
    missing = [step for step in steps if step not in files]
    if missing:
        raise UserError(
            f"--step {missing[0]}: this step was not stored; stored are {', '.join(map(str, files))} "
            f"(training.save_trajectories_every is {every} in this run)"
        )
    return StoredRun(path, config, {step: files[step] for step in (sorted(set(steps)) or files)})


def recredit(run: StoredRun, method: CreditConfig) -> Comparison:
    """Compute credit under the run's own method and under `method`.

    Raises:
        UserError: `method` needs something of the teacher that was not stored.
    """
    stored = {step: _scored(file) for step, file in run.files.items()}
    trajectories = [t for of_step in stored.values() for t in of_step]
    if not any(t.scores is not None for t in trajectories):
        raise UserError(f"{run.path}: no stored trajectory carries a teacher's scores; there is nothing to credit")
    _check_stored(method, trajectories)
    own_method = run.config.credit.method
    own = _Credited(own_method, run.config.seed)
    new = _Credited(method, run.config.seed)
    columns: dict[str, list[np.ndarray]] = {}
    try:
        for step, of_step in stored.items():
            for batch in _batches(of_step):
                for name, values in _columns(step, batch, own(batch, step), new(batch, step)).items():
                    columns.setdefault(name, []).append(values)
            own.end_step()
            new.end_step()
    except ValueError as error:
        raise UserError(f"{run.path}: the stored scores do not serve this method: {error}") from error
    flat = {name: np.concatenate(parts) for name, parts in columns.items()}
    action = flat["reason"] != Reason.GUIDED
    n_turns = int(flat["turn"].max(initial=-1)) + 1
    own_kept, new_kept = _kept(flat, "own_"), _kept(flat, "")
    return Comparison(
        steps=list(stored),
        trajectories=len(trajectories),
        tokens=np.bincount(flat["turn"][action], minlength=n_turns).tolist(),
        own=_side(flat, "own_", action, own, n_turns),
        new=_side(flat, "", action, new, n_turns),
        dropped=int((action & own_kept & ~new_kept).sum()),
        gained=int((action & ~own_kept & new_kept).sum()),
        notes=_notes(own_method, method),
        columns=flat,
    )


def _scored(file: Path) -> list[Trajectory]:
    """What training credited in that step: the episodes that the environment did not fail in."""
    return [t for t in read_trajectories(file) if t.error is None]


def _batches(trajectories: Sequence[Trajectory]) -> Iterator[ScoredBatch]:
    for start in range(0, len(trajectories), _AT_ONCE):
        yield pad_scored(trajectories[start : start + _AT_ONCE])


class _Credited:
    """One method over the steps of a run, with the turn divergences it has seen."""

    def __init__(self, method: CreditConfig, seed: int):
        self.method, self.seed = method, seed
        self.turn: list[torch.Tensor] = []  # index of each turn that counted
        self.divergence: list[torch.Tensor] = []
        self.recent = torch.zeros(0)
        self._in_step: list[torch.Tensor] = []

    def __call__(self, batch: ScoredBatch, step: int) -> Credit:
        credit = assign_credit(batch, self.method, step - 1, self.seed, recent=self.recent)
        counts = credit.turn_counts
        self.turn.append(counts.nonzero()[:, 1])
        self.divergence.append(credit.turn_divergence[counts])
        self._in_step.append(credit.turn_divergence[counts])
        return credit

    def end_step(self) -> None:
        """From the next step on, what this one showed is known to quantile thresholds."""
        rule = self.method.rule
        window = rule.window if isinstance(rule, Thresholds) else 0
        seen = torch.cat([self.recent, *self._in_step])
        self.recent = seen[max(len(seen) - window, 0) :]
        self._in_step = []


def _columns(step: int, batch: ScoredBatch, own: Credit, new: Credit) -> dict[str, np.ndarray]:
    """Per action or guided token: where it is, the new weights and reason, and the run's own with `own_` before."""
    where = batch.action | batch.guided
    row, position = where.nonzero(as_tuple=True)
    found = {
        "step": torch.full_like(row, step),
        "trajectory": batch.trajectory_id[row],
        "position": position,
        "turn": batch.turn[where],
    }
    for prefix, credit in (("", new), ("own_", own)):
        found[f"{prefix}policy_weight"] = credit.policy_weight[where]
        found[f"{prefix}score"] = credit.score[where]
        found[f"{prefix}forward_kl_weight"] = credit.forward_kl_weight[where]
        found[f"{prefix}imitation_weight"] = credit.imitation_weight[where]
        found[f"{prefix}reason"] = credit.reason[where]
    return {name: values.numpy() for name, values in found.items()}


def _kept(flat: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    return (flat[f"{prefix}policy_weight"] > 0) | (flat[f"{prefix}forward_kl_weight"] > 0)


def _side(flat: dict[str, np.ndarray], prefix: str, action: np.ndarray, credited: _Credited, n_turns: int) -> Side:
    turn = flat["turn"][action]
    kept = _kept(flat, prefix)[action]
    weight = flat[f"{prefix}policy_weight"][action]

    def per_turn(values: np.ndarray) -> list[float | None]:
        n = np.bincount(turn, minlength=n_turns)
        total = np.bincount(turn, weights=values, minlength=n_turns)
        return [float(total[k] / n[k]) if n[k] else None for k in range(n_turns)]

    def mean(values: np.ndarray) -> float:
        return float(values.mean(dtype=np.float64)) if len(values) else 0.0

    codes, counts = np.unique(flat[f"{prefix}reason"], return_counts=True)
    index = torch.cat(credited.turn).numpy()
    divergence = torch.cat(credited.divergence).double().numpy()
    return Side(
        kept_share=per_turn(kept),
        policy_weight=per_turn(weight),
        kept_share_all=mean(kept),
        policy_weight_all=mean(weight),
        forward_kl_weight_all=mean(flat[f"{prefix}forward_kl_weight"][action]),
        reasons={DESCRIPTIONS[Reason(code)]: int(n) for code, n in zip(codes, counts, strict=True)},
        divergence=[
            np.quantile(divergence[index == k], QUANTILES).tolist() if (index == k).any() else None
            for k in range(n_turns)
        ],
    )


def _check_stored(method: CreditConfig, trajectories: Sequence[Trajectory]) -> None:
    scores = [t.scores for t in trajectories if t.scores is not None and len(t.scores.positions)]
    wanted = method.forward_kl
    if wanted is None or not scores:
        return
    stored = min(0 if s.top_ids is None else s.top_ids.shape[1] for s in scores)
    if wanted.top_k > stored:
        advice = (
            f"set credit.outlier.top_k={stored}, or train with the larger one"
            if stored
            else "the run's own method reads none; choose another credit.outlier, or train with this one"
        )
        raise UserError(
            f"credit.outlier.top_k: found {wanted.top_k}, wanted at most {stored}, the number of the teacher's most "
            f"likely tokens that were stored; {advice}"
        )
    if isinstance(wanted, EntropyOutliers) and any(s.entropy is None for s in scores):
        raise UserError(
            "credit.outlier.kind: 'entropy' needs the teacher's entropy at each token, which was not stored; choose "
            "another credit.outlier, or train with this one"
        )


def _notes(own: CreditConfig, new: CreditConfig) -> list[str]:
    notes = [
        f"credit.{part} changes how episodes are played; these were played with '{getattr(own, part).kind}'"
        for part in ("guidance", "curriculum")
        if getattr(own, part) != getattr(new, part)
    ]
    notes += [
        f"credit.{part} changes the loss, not the weights shown here"
        for part in ("estimator", "normaliser")
        if getattr(own, part) != getattr(new, part)
    ]
    if any(isinstance(m.rule, Thresholds) and m.rule.thresholds == "quantile" for m in (own, new)):
        notes.append("quantile thresholds are taken from the stored steps alone; training takes them from every step")
    return notes


def summary(comparison: Comparison) -> dict[str, Any]:
    """`comparison` as plain data, without the columns."""
    found = {name: value for name, value in vars(comparison).items() if name != "columns"}
    return found | {"own": vars(comparison.own), "new": vars(comparison.new), "quantiles": list(QUANTILES)}


def write_tokens(path: Path, comparison: Comparison) -> None:
    """One row per action or guided token: `step`, `trajectory`, `position` (into its tokens), `turn`, the weights of
    each stream, the score (nats) and the reason in words; the same with `own_` before the name for the run's method."""
    columns: dict[str, Any] = dict(comparison.columns)
    words = np.array([DESCRIPTIONS[Reason(code)] for code in range(len(Reason))], dtype=object)
    for name in ("reason", "own_reason"):
        columns[name] = words[columns[name]]
    pq.write_table(pa.table(columns), path, compression="zstd")
