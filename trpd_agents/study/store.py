"""A study's directory: where each job's results are, and what they say that other jobs need.

    study.yaml  members/ENVIRONMENT/TEACHER/METHOD/SEED/  selection/...  models/  logs/  failures.json

Invariant: a member counts as finished only if it was run as the study file asks now; results of other settings are
never mixed in.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.study.plan import Member, ModelJob
from trpd_agents.study.work import MEMBER, read_json, write_json

FAILURES = "failures.json"


class NotThere(Exception):
    """What a member waits for did not come about. The message says what and why."""


class StudyDirectory:
    def __init__(self, path: Path):
        self.path = path

    # ---- where things are ----

    def folder(self, member: Member) -> Path:
        return self.path / member.folder

    def model_file(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def log(self, job: Member | ModelJob) -> Path:
        below = job.folder if isinstance(job, Member) else job.name
        return self.path / "logs" / f"{below}.log"

    # ---- what is there ----

    def finished(self, job: Member | ModelJob) -> bool:
        if isinstance(job, ModelJob):
            return read_json(self.model_file(job.name)) is not None
        told = self.told(job)
        return told is not None and told["asked"] == job.asked

    def stale(self, member: Member) -> bool:
        """Whether it was finished, but with other settings than the study file has now."""
        told = self.told(member)
        return told is not None and told["asked"] != member.asked

    def told(self, member: Member) -> dict[str, Any] | None:
        """What a member wrote down when it finished."""
        return read_json(self.folder(member) / MEMBER)

    def evaluations(self, member: Member) -> dict[str, Any]:
        return read_json(self.folder(member) / "evaluations.json") or {}

    def metrics(self, member: Member) -> list[dict[str, Any]]:
        """One entry per update."""
        file = self.folder(member) / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []

    def model(self, name: str) -> dict[str, Any] | None:
        """The evaluation of a teacher or a start."""
        return read_json(self.model_file(name))

    def kept_share(self, member: Member) -> float:
        """Share of the student's tokens that carried weight, over the whole run; NaN when it sampled none."""
        lines = self.metrics(member)
        tokens = sum(line["action_tokens"] for line in lines)
        return sum(line["kept_share"] * line["action_tokens"] for line in lines) / tokens if tokens else float("nan")

    # ---- failures ----

    def failures(self) -> dict[str, str]:
        return read_json(self.path / FAILURES) or {}

    def set_failure(self, name: str, error: str | None) -> None:
        found = self.failures()
        changed = {**found, name: error} if error is not None else {n: e for n, e in found.items() if n != name}
        if changed != found:
            write_json(self.path / FAILURES, changed)

    # ---- one at a time ----

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Refuse a second process in this directory, until the last worker of the first is gone too.

        Yields the file descriptor that workers must hold open.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another `trpd study` is at work in {self.path}; wait for it, stop it, or name another --out"
                ) from None
            yield held
        finally:
            os.close(held)
