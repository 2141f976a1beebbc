"""The teachers that a run's configuration asks for, and what they ask of its environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trpd_agents.batching import pick_token_budget
from trpd_agents.config import (
    HintedTeacherConfig,
    OracleTeacherConfig,
    RoutedTeacherConfig,
    RunConfig,
    Section,
    ServerTeacherConfig,
)
from trpd_agents.config.teachers import OneTeacherConfig
from trpd_agents.credit.config import EntropyOutliers
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel, Outline
from trpd_agents.teacher.base import Teacher
from trpd_agents.teacher.cached import with_cache
from trpd_agents.teacher.hinted import HintedTeacher, longest_hint
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.teacher.oracle import OracleTeacher
from trpd_agents.teacher.routed import RoutedTeacher
from trpd_agents.teacher.server import ServerTeacher, TeacherServer
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.mixture import members


def teachers_of(config: RunConfig) -> dict[str, OneTeacherConfig]:
    """The teachers that a run needs: one without a name, or by name those that its environments are routed to."""
    if not isinstance(config.teacher, RoutedTeacherConfig):
        return {"": config.teacher}
    return {name: config.teacher.teachers[name] for _, name in _taught(config)}


def _taught(config: RunConfig) -> list[tuple[EnvSpec, str]]:
    """The environments of a run, in their order, each with the name of its teacher.

    Raises:
        UserError: one of them leads to none.
    """
    specs = [member.spec for member in members(EnvSpec(config.env.id, config.env.kwargs))]
    if not isinstance(config.teacher, RoutedTeacherConfig):
        return [(spec, "") for spec in specs]
    found = []
    for spec in specs:
        name = config.teacher.route(spec.id)
        if name is None:
            raise UserError(
                f"teacher.routes: no pattern fits the environment {spec.id!r}; there are: "
                f"{', '.join(config.teacher.routes)}; add one that does, such as '*'"
            )
        found.append((spec, name))
    return found


def keeps_start(section: OneTeacherConfig) -> bool:
    """Whether a teacher is a copy of the student that is made when the run begins."""
    return isinstance(section, HintedTeacherConfig) and section.follow == "start"


def taught_by(config: RunConfig, kind: type[Section]) -> list[EnvSpec]:
    """The run's environments that have a teacher of this kind."""
    sections = teachers_of(config)
    return [spec for spec, name in _taught(config) if isinstance(sections[name], kind)]


def school(config: RunConfig, name: str) -> EnvSpec:
    """Where the teacher called `name` learns by imitation: in the environments that it will teach in."""
    whole = EnvSpec(config.env.id, config.env.kwargs)
    own = [n == name for _, n in _taught(config)]
    if all(own):
        return whole
    entries = [entry for entry, is_own in zip(config.env.kwargs["environments"], own, strict=True) if is_own]
    return EnvSpec(whole.id, {"environments": entries})


def check_hints(config: RunConfig, student: Outline) -> None:
    """Refuse environments without hints for a hinted teacher, and hints that leave no room for an episode."""
    for spec in taught_by(config, HintedTeacherConfig):
        added = longest_hint(spec, student.tokenizer)
        if student.context is not None and config.rollout.max_tokens + added > student.context:
            raise UserError(
                f"rollout.max_tokens={config.rollout.max_tokens} and a hint of {added} tokens are more than the "
                f"student's context of {student.context} tokens; lower it to {student.context - added}, or give "
                "shorter hints"
            )


def teacher_of(
    config: RunConfig,
    student: LanguageModel,
    teachers: Mapping[str, LanguageModel],
    servers: Mapping[str, TeacherServer],
) -> Teacher:
    """The teacher of a run; `teachers` and `servers` are, by the names of `teachers_of`, the models that it needs."""

    def one(name: str, section: OneTeacherConfig) -> Teacher:
        teacher: Teacher
        if isinstance(section, OracleTeacherConfig):
            teacher = OracleTeacher(student.tokenizer, student.vocab_size, uniform=section.uniform, **asked)
        elif isinstance(section, ServerTeacherConfig):
            teacher = ServerTeacher(servers[name], top_k=config.top_k)
        elif isinstance(section, HintedTeacherConfig):
            moving = section.follow == "student"
            teacher = HintedTeacher(student if moving else teachers[name], moving=moving, token_budget=budget, **asked)
        else:
            teacher = LocalTeacher(teachers[name], token_budget=budget, **asked)
        return with_cache(teacher, section, asked, tokenizer=student.tokenizer, device=student.device)

    method, budget = config.credit.method, pick_token_budget(config.learner.token_budget, student.device)
    asked: dict[str, Any] = {
        "top_k": config.top_k,
        "entropy": isinstance(method.outlier, EntropyOutliers),
        "keep_hidden": method.exact,
    }
    made = {name: one(name, section) for name, section in teachers_of(config).items()}
    if not isinstance(config.teacher, RoutedTeacherConfig):
        return made[""]
    return RoutedTeacher(made, config.teacher.route)
