"""The `teacher` section: one class for each kind, and `TeacherConfig`, any of them. Without a `kind` it is `local`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from trpd_agents.config.base import Name, Section
from trpd_agents.config.more_teachers import Cached, HintedTeacherConfig
from trpd_agents.config.problems import Problems
from trpd_agents.config.sections import ModelConfig
from trpd_agents.config.server import ServerTeacherConfig

_BUNDLED = "trpd/"  # the namespace that ids of bundled environments may be written without


class LocalTeacherConfig(Cached, ModelConfig):
    """A teacher whose weights are loaded in this process. How many top tokens it returns follows from `credit`."""

    guidance: ClassVar[tuple[str, ...]] = ("none", "prefix", "bernoulli", "rescue")  # kinds that it can do

    kind: Literal["local"] = "local"


class OracleTeacherConfig(Cached):
    """The environment's own expert as a teacher: exact in every state, and no model."""

    guidance: ClassVar[tuple[str, ...]] = ("none", "prefix", "bernoulli")  # it does not read along while others play

    kind: Literal["oracle"] = "oracle"
    uniform: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.01  # probability of any legal action, not the best


def _local_unless_said(data: object) -> object:
    return {"kind": "local", **data} if isinstance(data, dict) else data


OneTeacherConfig = Annotated[
    LocalTeacherConfig | OracleTeacherConfig | ServerTeacherConfig | HintedTeacherConfig,
    Discriminator("kind"),
    BeforeValidator(_local_unless_said),
]


class RoutedTeacherConfig(Section):
    """Several teachers by name, and which of them scores the episodes of which environment.

    `routes` maps patterns of environment ids (`*` stands for anything) to names; the first that fits counts.
    """

    kind: Literal["routed"] = "routed"
    teachers: Annotated[dict[Name, OneTeacherConfig], Field(min_length=1)]
    routes: Annotated[dict[Name, Name], Field(min_length=1)]

    @property
    def guidance(self) -> tuple[str, ...]:
        """What all of them can do."""
        first, *others = (teacher.guidance for teacher in self.teachers.values())
        return tuple(kind for kind in first if all(kind in other for other in others))

    @property
    def whole_distribution(self) -> bool:
        return all(getattr(teacher, "whole_distribution", True) for teacher in self.teachers.values())

    def route(self, env_id: str) -> str | None:
        """The name of the teacher for an environment; None where no pattern fits."""
        short = env_id.removeprefix(_BUNDLED)
        fitting = (name for key, name in self.routes.items() if fnmatchcase(short, key.removeprefix(_BUNDLED)))
        return next(fitting, None)

    @model_validator(mode="after")
    def _names_agree(self) -> RoutedTeacherConfig:
        known = ", ".join(self.teachers)
        problems = [
            (f"routes.{pattern}", f"the name of a teacher wanted, found {name!r}; there are: {known}")
            for pattern, name in self.routes.items()
            if name not in self.teachers
        ]
        problems += [
            (f"teachers.{name}", "no route leads to this teacher; add one to routes, or leave the teacher out")
            for name in self.teachers
            if name not in self.routes.values()
        ]
        problems += [
            (f"teachers.{name}", 'letters, digits, "_" and "-" wanted: the name becomes that of a folder')
            for name in self.teachers
            if not name.replace("_", "").replace("-", "").isalnum()
        ]
        if problems:
            raise Problems(problems)
        return self


TeacherConfig = Annotated[
    LocalTeacherConfig | OracleTeacherConfig | ServerTeacherConfig | HintedTeacherConfig | RoutedTeacherConfig,
    Discriminator("kind"),
    BeforeValidator(_local_unless_said),
]
