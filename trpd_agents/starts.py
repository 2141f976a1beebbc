"""The models that a run starts from: loaded, or made by imitation once and kept for every run after it."""

from __future__ import annotations

import copy
from dataclasses import replace

from trpd_agents.config import ModelConfig, RunConfig
from trpd_agents.distributed import World
from trpd_agents.imitation import prepare_model
from trpd_agents.models import LanguageModel
from trpd_agents.progress import Progress
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.teacher.of_run import keeps_start, school, teachers_of
from trpd_agents.textenv import EnvSpec


def make_models(
    config: RunConfig, max_turns: int, world: World, progress: Progress, watch: Stopwatch
) -> tuple[LanguageModel, dict[str, LanguageModel]]:
    """The student, and by the names of `teachers_of` the teachers that are models of their own. All ranks call it."""
    env = EnvSpec(config.env.id, config.env.kwargs)
    with watch("teacher"):
        teachers = {
            name: make_start(
                f"teacher {name}".strip(), section, config, school(config, name), max_turns, world, progress
            )
            for name, section in teachers_of(config).items()
            if isinstance(section, ModelConfig)
        }
    with watch("student"):
        student = make_start("student", config.student, config, env, max_turns, world, progress)
    for name, section in teachers_of(config).items():
        if keeps_start(section):
            teachers[name] = replace(student, model=copy.deepcopy(student.model))
    return student, teachers


def make_start(
    who: str,
    model: ModelConfig,
    config: RunConfig,
    env: EnvSpec,
    max_turns: int,
    world: World,
    progress: Progress,
) -> LanguageModel:
    """The model that `who` (student or teacher) of a run starts from: loaded, or made and kept for the next run."""
    updates = model.imitation.updates if model.imitation else 1
    title = f"{who}: imitate the expert" if model.imitation else f"{who}: load"
    with progress.phase(title, updates) as shown:
        lm, cached = prepare_model(
            model,
            env,
            learner=config.learner,
            max_turns=max_turns,
            world=world,
            progress=lambda done, _, figures: shown.update(done, {"loss": figures["loss"]}),
        )
        shown.update(updates)
    if cached:
        progress.say(f"{who}: found in the cache, made by an earlier run with the same settings")
    return lm
