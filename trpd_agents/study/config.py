"""What a study file says: methods x environments x teachers x seeds, around one recipe.

The sections of a run are kept as plain mappings here; they become `RunConfig` objects, and are checked as such, when
the plan lays them over each other (`plan.py`). What is checked here is everything about the study itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from trpd_agents.config.problems import Problems, explain, suggest
from trpd_agents.config.sections import Flag, Name, Natural, Positive, Section
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.credit.presets import PRESETS
from trpd_agents.errors import UserError

Settings = dict[str, Any]
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Recipe(Section):
    """Sections of a run configuration, as they are written; they are checked once they are put together."""

    rollout: Settings = {}
    learner: Settings = {}
    training: Settings = {}


class BaseConfig(Recipe):
    """The recipe that all members share."""

    evaluation: Settings = {}


class EnvironmentConfig(BaseConfig):
    """An environment, and what is different in the recipe there."""

    env: Settings
    student: Settings = {}


class MethodEntry(Recipe):
    """A method: the `credit` section and what else is different with it. Evaluation is the same for all methods."""

    credit: Settings
    match_kept_share: Name | None = None  # a method whose mean kept share becomes this one's `credit.rule.share`


class LearningRates(Section):
    """Choosing each method's learning rate on seeds that the study itself does not use.

    Without `environments` it is chosen in every environment for itself; with it, on these together and for all.
    """

    grid: Annotated[list[Positive], Field(min_length=2)]
    seeds: Annotated[list[Natural], Field(min_length=1)]
    environments: Annotated[list[Name], Field(min_length=1)] | None = None


class Block(Section):
    """A part of the product; what is not named is taken whole."""

    environments: list[Name] | None = None
    teachers: list[Name] | None = None
    methods: list[Name] | None = None
    seeds: list[Natural] | None = None


class StudyConfig(Section):
    base: BaseConfig
    student: Settings
    environments: Annotated[dict[Name, EnvironmentConfig], Field(min_length=1)]
    teachers: Annotated[dict[Name, Settings], Field(min_length=1)]
    methods: Annotated[dict[Name, MethodEntry], Field(min_length=1)]
    seeds: Annotated[list[Natural], Field(min_length=1)]
    baseline: Name
    learning_rates: LearningRates | None = None
    blocks: Annotated[list[Block], Field(min_length=1)] | None = None
    keep_models: Flag = False

    @field_validator("methods", mode="before")
    @classmethod
    def _named_by_preset(cls, data: Any) -> Any:
        """A list of presets, or a mapping in which a method called like a preset is that preset."""
        if isinstance(data, list):
            if repeated := _repeated(data):
                raise Problems([("", f"given twice: {repeated}")])
            data = dict.fromkeys(data)
        if not isinstance(data, Mapping):
            return data
        found, problems = {}, []
        for name, entry in data.items():
            entry = {} if entry is None else entry
            if isinstance(entry, Mapping):
                credit = entry.get("credit", {})
                if isinstance(credit, Mapping) and "preset" not in credit:
                    if name not in PRESETS:
                        problems.append((str(name), f"no preset has this name, and none is given; {_near(name)}"))
                        continue
                    entry = {**entry, "credit": {"preset": name, **credit}}
            found[name] = entry
        if problems:
            raise Problems(problems)
        return found

    @model_validator(mode="after")
    def _names_agree(self) -> StudyConfig:
        problems: list[tuple[str, str]] = []
        for place in ("environments", "teachers", "methods"):
            for name in getattr(self, place):
                if not _FOLDER.fullmatch(name):
                    problems.append((place, f"{name!r} names a folder: letters, digits, '.', '_' and '-' only"))
        for place, seeds in (("seeds", self.seeds), *self._seed_lists()):
            if repeated := _repeated(seeds):
                problems.append((place, f"given twice: {repeated}"))
        for place, names, known in self._names_used():
            problems += [
                (place, f"unknown name {name!r}; {suggest(name, known)}") for name in names if name not in known
            ]
            if repeated := _repeated(names):
                problems.append((place, f"given twice: {repeated}"))
        problems += self._about_seeds()
        for place, section in (("base", self.base), *((f"environments.{n}", e) for n, e in self.environments.items())):
            problems += [
                (f"{place}.evaluation.{key}", "leave it out: starts and teachers are evaluated once for all members")
                for key in ("before", "teacher")
                if key in section.evaluation
            ]
        for name, entry in self.methods.items():
            target = self.methods.get(entry.match_kept_share or "")
            if target is not None and (target is entry or target.match_kept_share is not None):
                problems.append(
                    (f"methods.{name}.match_kept_share", f"'{entry.match_kept_share}' itself waits for another's share")
                )
        if problems:
            raise Problems(problems)
        return self

    def _seed_lists(self) -> list[tuple[str, list[int]]]:
        lists = [(f"blocks.{i}.seeds", block.seeds) for i, block in enumerate(self.blocks or []) if block.seeds]
        return lists + ([("learning_rates.seeds", self.learning_rates.seeds)] if self.learning_rates else [])

    def _names_used(self) -> Iterable[tuple[str, list[str], Iterable[str]]]:
        """Every place that names something: where, which names, and what may be named there."""
        yield "baseline", [self.baseline], self.methods
        for name, entry in self.methods.items():
            if entry.match_kept_share is not None:
                yield f"methods.{name}.match_kept_share", [entry.match_kept_share], self.methods
        for name, teacher in self.teachers.items():
            special = teacher.get("environments", {})
            if isinstance(special, Mapping):
                yield f"teachers.{name}.environments", list(special), self.environments
        if self.learning_rates and self.learning_rates.environments is not None:
            yield "learning_rates.environments", self.learning_rates.environments, self.environments
        for i, block in enumerate(self.blocks or []):
            for place in ("environments", "teachers", "methods"):
                yield f"blocks.{i}.{place}", getattr(block, place) or [], getattr(self, place)

    def _about_seeds(self) -> list[tuple[str, str]]:
        problems = []
        for i, block in enumerate(self.blocks or []):
            for place in ("environments", "teachers", "methods", "seeds"):
                if getattr(block, place) == []:
                    problems.append((f"blocks.{i}.{place}", "empty; name some, or leave the key out to take all"))
        if self.learning_rates is not None:
            used = {*self.seeds, *(seed for block in self.blocks or [] for seed in block.seeds or [])}
            if both := sorted(used & set(self.learning_rates.seeds)):
                problems.append(
                    (
                        "learning_rates.seeds",
                        f"{both} are seeds of the study too; a rate has to be chosen on other seeds than it is used on",
                    )
                )
            if repeated := _repeated(self.learning_rates.grid):
                problems.append(("learning_rates.grid", f"given twice: {repeated}"))
        special = ((f"environments.{name}.student", entry.student) for name, entry in self.environments.items())
        imitations = [("student", self.student), *special]
        for place, section in imitations:
            imitation = section.get("imitation")
            if isinstance(imitation, Mapping) and "seed" in imitation:
                problems.append(
                    (f"{place}.imitation.seed", "remove it: it follows each member's seed, so that starts are paired")
                )
        return problems


def load_study(path: str | Path) -> StudyConfig:
    """The study in the YAML file at `path`. Raises `UserError` listing every mistake."""
    path = Path(path)
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no study file at {path}; give the path of a YAML file, as in configs/study/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text file: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a mapping (base, environments, ...); found {type(data).__name__}")
    return parse_study(data, str(path))


def parse_study(data: Mapping[str, Any], source: str = "study") -> StudyConfig:
    """`data` checked. Raises `UserError` listing every mistake; `source` names where the data came from."""
    try:
        return StudyConfig.model_validate(data)
    except ValidationError as error:
        raise UserError("\n  ".join([f"{source} cannot be run:", *explain(StudyConfig, error)])) from None


def _near(name: object) -> str:
    return suggest(name, PRESETS)


def _repeated(items: Iterable[Any]) -> str:
    items = list(items)
    return ", ".join(str(item) for item in dict.fromkeys(items) if items.count(item) > 1)
