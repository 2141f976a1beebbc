"""From a study to its members: which runs there are, what each needs first, and every one of them checked.

A member's sections are laid over each other in this order: base, environment, method. Two settings may be known only
later, when other members have finished: a learning rate that is chosen, and a kept share that is matched.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from trpd_agents.config import RunConfig
from trpd_agents.config.problems import explain
from trpd_agents.errors import UserError
from trpd_agents.study.config import Block, Settings, StudyConfig

SECTIONS = ("rollout", "learner", "training", "evaluation")
_STARTED_BY = ("weight_decay", "betas", "grad_clip", "dtype", "device", "token_budget")  # of `learner`


@dataclass(frozen=True)
class Member:
    """One run. `rate` is the learning rate on trial, None outside of the choice of learning rates.

    `candidates` are the members to choose this one's learning rate from: rate -> names. `share_of` is the member whose
    mean kept share this one takes over. `draft` is the configuration with a stand-in for what is not known yet.
    `models` are the start's and the teacher's jobs.
    """

    environment: str
    teacher: str
    method: str
    seed: int
    rate: float | None
    sections: Settings = field(repr=False)
    draft: RunConfig = field(repr=False)
    models: Mapping[str, str] = field(repr=False)
    candidates: Mapping[float, tuple[str, ...]] = field(default_factory=dict, repr=False)
    share_of: str | None = None

    @property
    def name(self) -> str:
        return member_name(self.environment, self.teacher, self.method, self.seed, self.rate)

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the study's directory."""
        return PurePosixPath("members" if self.rate is None else "selection") / self.name

    @property
    def needs(self) -> list[str]:
        """Jobs that must have ended, well or not, before this one's settings are known."""
        others = [name for names in self.candidates.values() for name in names]
        return [*self.models.values(), *others, *([self.share_of] if self.share_of else [])]

    @property
    def asked(self) -> str:
        """A short hash of what the study file says of this member."""
        return short_hash([self.sections, {str(rate): sorted(names) for rate, names in self.candidates.items()}])

    def configure(self, rate: float | None, share: float | None) -> RunConfig:
        """The run's configuration, with the learning rate that was chosen and the share to match, if there are any."""
        return _configure(self.sections, self.rate if self.rate is not None else rate, share)


@dataclass(frozen=True)
class ModelJob:
    """A teacher or a student's start: made once, evaluated once, for all members that use it."""

    name: str
    who: str  # "student" or "teacher"
    config: RunConfig = field(repr=False)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every job by name, in the order in which they are started when nothing holds them up."""

    jobs: Mapping[str, ModelJob | Member]

    @property
    def members(self) -> list[Member]:
        return [job for job in self.jobs.values() if isinstance(job, Member)]

    def with_needs(self, names: Iterable[str]) -> set[str]:
        """`names`, everything they need, what that needs, and so on."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.jobs[name].needs
        return found


def make_plan(study: StudyConfig) -> Plan:
    """All jobs of a study. Raises `UserError` naming the members that cannot be run, and why."""
    cells = _cells(study)
    problems: dict[str, dict[str, None]] = {}
    models: dict[str, ModelJob] = {}
    members: dict[str, Member] = {}

    def member(environment: str, teacher: str, method: str, seed: int, rate: float | None) -> str:
        entry, rates = study.methods[method], study.learning_rates
        if rate is not None and isinstance(own := entry.learner.get("lr"), int | float):
            rate = own  # needed for its kept share only: a method with a rate of its own keeps it
        name = member_name(environment, teacher, method, seed, rate)
        if name in members:
            return name
        sections = compose(study, environment, teacher, method, seed)
        candidates: dict[float, tuple[str, ...]] = {}
        if rates is not None and rate is None and "lr" not in entry.learner:
            places = [(environment, teacher)]
            if rates.environments is not None:
                places = [(e, t) for e, t in _places(cells, method) if e in rates.environments] or places
            candidates = {
                lr: tuple(member(e, t, method, s, lr) for s in rates.seeds for e, t in places) for lr in rates.grid
            }
        share_of = member(environment, teacher, entry.match_kept_share, seed, rate) if entry.match_kept_share else None
        stand_in = rate if rate is not None or not candidates else rates.grid[0] if rates else None
        draft = _draft((environment, teacher, method), sections, stand_in, 0.5 if share_of else None, problems)
        if draft is None:
            return name
        used = {}
        for who in ("student", "teacher"):
            job = _model_job(environment, teacher, who, draft)
            used[who] = models.setdefault(job.name, job).name
        members[name] = Member(environment, teacher, method, seed, rate, sections, draft, used, candidates, share_of)
        return name

    for cell in cells:
        member(*cell, None)
    _refuse(problems)
    wanted = {member_name(*cell) for cell in cells}
    for found in members.values():
        if found.rate is None and found.name not in wanted:
            raise UserError(
                f"a member takes over the kept share of {found.name}, which no block of the study runs; add it to one"
            )
    jobs: dict[str, ModelJob | Member] = {}
    for found in sorted(members.values(), key=lambda m: m.rate is None):  # stable: choices of learning rates first
        for needed in found.models.values():
            jobs.setdefault(needed, models[needed])
        jobs[found.name] = found
    return Plan(jobs)


def compose(study: StudyConfig, environment: str, teacher: str, method: str, seed: int) -> Settings:
    """The sections of one member's run configuration as the study file gives them."""
    there, entry = study.environments[environment], study.methods[method]
    general = {key: value for key, value in study.teachers[teacher].items() if key != "environments"}
    special = study.teachers[teacher].get("environments", {}).get(environment, {})
    student = merge(study.student, there.student)
    if isinstance(student.get("imitation"), Mapping):
        student["imitation"] = {**student["imitation"], "seed": seed}
    training = {"save_trajectories_every": 0}
    layers = [{"training": training}, study.base.model_dump(), there.model_dump(), entry.model_dump()]
    sections = {name: merge(*(layer.get(name, {}) for layer in layers)) for name in SECTIONS}
    sections["evaluation"] |= {"before": False, "teacher": False}  # once for all members that share them
    return {
        "seed": seed,
        "env": there.env,
        "student": student,
        "teacher": merge(general, special),
        "credit": entry.credit,
        **sections,
    }


def merge(*layers: Mapping[str, Any]) -> Settings:
    """Mappings laid over each other, key by key all the way down; a later one wins."""
    merged: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(below, value) if isinstance(below, Mapping) else merge(value)
            else:
                merged[key] = value
    return merged


def member_name(environment: str, teacher: str, method: str, seed: int, rate: float | None = None) -> str:
    trial = [] if rate is None else [f"lr-{rate:g}"]
    return "/".join([environment, teacher, method, *trial, str(seed)])


def short_hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _cells(study: StudyConfig) -> list[tuple[str, str, str, int]]:
    """Environment, teacher, method and seed of every member, seed by seed: whole comparisons come early."""
    found: list[tuple[int, str, str, str]] = []
    for block in study.blocks or [Block()]:
        found += itertools.product(
            block.seeds or study.seeds,
            block.environments or study.environments,
            block.teachers or study.teachers,
            block.methods or study.methods,
        )
    by_seed = sorted(dict.fromkeys(found), key=lambda cell: _position(study, cell[0]))
    return [(environment, teacher, method, seed) for seed, environment, teacher, method in by_seed]


def _position(study: StudyConfig, seed: int) -> tuple[int, int]:
    return (study.seeds.index(seed), seed) if seed in study.seeds else (len(study.seeds), seed)


def _places(cells: Iterable[tuple[str, str, str, int]], method: str) -> Iterator[tuple[str, str]]:
    """Where a method is run: environment and teacher."""
    yield from dict.fromkeys((e, t) for e, t, m, _ in cells if m == method)


def _draft(
    cell: tuple[str, str, str],
    sections: Settings,
    rate: float | None,
    share: float | None,
    problems: dict[str, dict[str, None]],
) -> RunConfig | None:
    """A member's configuration, or None and its lines in `problems`, under the cell: only the seed differs within."""
    lines: list[str] = []
    config: RunConfig | None = None
    try:
        config = _configure(sections, rate, share)
    except ValidationError as error:
        lines = explain(RunConfig, error)
    if config is not None and config.training.ranks > 1:
        ranks = config.training.ranks
        lines = [f"training.ranks: 1 wanted, found {ranks}; members run beside each other, with --jobs"]
    for line in lines:
        problems.setdefault(line, {})["/".join(cell)] = None
    return config


def _configure(sections: Settings, rate: float | None, share: float | None) -> RunConfig:
    """`sections` with a learning rate and a share for the random rule, where given. Raises `ValidationError`."""
    known: Settings = {} if rate is None else {"learner": {"lr": rate}}
    if share is not None:
        known["credit"] = {"rule": {"share": share}}
    return RunConfig.model_validate(merge(sections, known))


def _refuse(problems: Mapping[str, Mapping[str, None]]) -> None:
    if not problems:
        return
    lines = []
    for line, cells in problems.items():
        others = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        lines.append(f"{next(iter(cells))}{others}: {line}")
    raise UserError("\n  ".join(["these members of the study cannot be run:", *lines]))


def _model_job(environment: str, teacher: str, who: str, config: RunConfig) -> ModelJob:
    section = config.student if who == "student" else config.teacher
    parts = [
        section.model_dump(mode="json"),
        config.env.model_dump(mode="json"),
        config.rollout.model_dump(mode="json"),
        {name: getattr(config.learner, name) for name in _STARTED_BY},
        [config.evaluation.episodes, config.evaluation.seed],
    ]
    seed = "" if config.student.imitation is None else f"-{config.student.imitation.seed}"
    called = f"start{seed}" if who == "student" else f"teacher-{teacher}"
    return ModelJob(f"models/{environment}/{called}-{short_hash(parts)}", who, config)
