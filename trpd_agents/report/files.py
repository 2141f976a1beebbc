"""A run's directory as somebody left it: finished, in progress, damaged, or written by a newer version.

Invariant: what can be read is there, what cannot is named in `missing`, and nothing in the directory is changed. Only a
directory that no run ever wrote into is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trpd_agents.config import RunConfig, load_config
from trpd_agents.errors import UserError

_MARKS = ("config.yaml", "metrics.jsonl", "trajectories", "summary.json")


@dataclass
class RunFiles:
    """What a run left behind. `steps` are the stored updates, counted from 1, in order, with their files."""

    path: Path
    config: RunConfig | None
    metrics: list[dict[str, Any]]
    evaluations: dict[str, Any]
    summary: dict[str, Any] | None
    versions: dict[str, str]
    steps: dict[int, Path]
    tokenizer: Path | None
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def steps_done(self) -> int:
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def finished(self) -> bool:
        return self.summary is not None

    def miss(self, what: str) -> None:
        if what not in self.missing:
            self.missing.append(what)


def open_run_files(path: Path) -> RunFiles:
    """Read everything of the run at `path` but its trajectories.

    Raises:
        UserError: no run was ever here.
    """
    if not any((path / mark).exists() for mark in _MARKS):
        what = f"holds none of {', '.join(_MARKS)}" if path.is_dir() else "is no directory"
        raise UserError(f"{path} {what}; give the directory of a run that `trpd train` made")
    missing: list[str] = []
    evaluations = _json(path / "evaluations.json", missing)
    summary = _json(path / "summary.json", missing)
    versions = _json(path / "versions.json", missing)
    run = RunFiles(
        path=path,
        config=_config(path, missing),
        metrics=_metrics(path / "metrics.jsonl", missing),
        evaluations={name: found for name, found in (evaluations or {}).items() if isinstance(found, dict)},
        summary=summary,
        versions={str(name): str(version) for name, version in (versions or {}).items()},
        steps=stored_steps(path),
        tokenizer=_tokenizer(path),
        missing=missing,
    )
    if not run.steps:
        run.miss(
            "trajectories/: no episode was stored; training.save_trajectories_every says which updates are (0: none)"
        )
    elif run.tokenizer is None:
        run.miss("student/tokenizer.json: tokens are shown by their ids")
    return run


def stored_steps(path: Path) -> dict[int, Path]:
    """The files of the stored updates of the run at `path`, by number."""
    files = sorted((path / "trajectories").glob("step-*.parquet"))
    return {int(found[1]): file for file in files if (found := re.fullmatch(r"step-(\d+)\.parquet", file.name))}


def _config(path: Path, missing: list[str]) -> RunConfig | None:
    try:
        return load_config(path / "config.yaml")
    except UserError as error:
        why = " ".join(str(error).split())
        missing.append(f"config.yaml: {why}; so the weights and reasons of tokens are not known")
        return None


def _json(file: Path, missing: list[str]) -> dict[str, Any] | None:
    """None where the file is not there, which a run in progress explains, or damaged, which is noted."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        missing.append(f"{file.name}: cannot be read ({error})")
        return None
    if not isinstance(found, dict):
        missing.append(f"{file.name}: a JSON object wanted, found {type(found).__name__}")
        return None
    return found


def _metrics(file: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The lines up to the first that is damaged; the last one may be one that is being written just now."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        missing.append("metrics.jsonl: not there; no update was completed")
        return []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                missing.append(f"metrics.jsonl: damaged from line {number} of {len(lines)} on")
            break
        found.append(row)
    return found


def _tokenizer(path: Path) -> Path | None:
    """The student's own, of the finished run or its newest checkpoint; else the teacher's, which has the same ids."""
    checkpoints = sorted((path / "checkpoints").glob("step-*"), reverse=True)
    folders = [path / "student", *(checkpoint / "student" for checkpoint in checkpoints), path / "teacher"]
    return next((file for folder in folders if (file := folder / "tokenizer.json").is_file()), None)
