"""Every check of a run's configuration, from what costs nothing to what plays whole episodes.

Invariant: all checks are asked, whatever others found; those that lack what they need say so. The models are made and
kept as training makes and keeps them, so that nothing is made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from trpd_agents.config import ModelConfig, RunConfig, ServerTeacherConfig
from trpd_agents.distributed import World, launch
from trpd_agents.doctor.cost import MEMORY, TIME
from trpd_agents.doctor.environment import ENVIRONMENT
from trpd_agents.doctor.episodes import BETTER, PREDICTION, ROOM, Played, play_both
from trpd_agents.doctor.finding import Check, Finding, ask, error, not_tried, ok
from trpd_agents.doctor.machine import DISK, MACHINE
from trpd_agents.doctor.speakers import Language, read_language
from trpd_agents.doctor.start import OF_LANGUAGE, OF_MODELS, unnoticed
from trpd_agents.doctor.subject import Subject
from trpd_agents.doctor.weights import WEIGHTS
from trpd_agents.errors import UserError
from trpd_agents.evaluation import turn_limit
from trpd_agents.lora import add_adapters
from trpd_agents.models import LanguageModel, pick_autocast
from trpd_agents.preparation import Ready, check_models, pool_of, subject_of
from trpd_agents.progress import Progress
from trpd_agents.rollout.open_engine import open_engine
from trpd_agents.starts import make_models
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.teacher import open_server
from trpd_agents.teacher.of_run import teachers_of
from trpd_agents.textenv import EnvSpec

SAMPLED = 128  # episodes' beginnings: about a thousand tokens, without which a sampler is not found out
EPISODES = 32

T = TypeVar("T")
Made = tuple[LanguageModel, dict[str, LanguageModel]]
OnFinding = Callable[[Finding], None]


def _settings(config: RunConfig) -> Finding:
    try:
        check_models(config)
    except UserError as told:
        return error(str(told), "`trpd train` refuses to start with it.")
    return ok("models, teacher and engine are there and fit the settings")


SETTINGS = Check("settings", "what `trpd train` asks of a recipe before it loads a model", _settings)
ON_PAPER: tuple[Check[RunConfig], ...] = (SETTINGS, ENVIRONMENT, MACHINE, DISK)
WITH_MODELS: tuple[Check[Subject], ...] = (*OF_MODELS, WEIGHTS)
IN_PLAY: tuple[Check[Played], ...] = (BETTER, PREDICTION, ROOM, MEMORY, TIME)


def examine(
    config: RunConfig,
    *,
    quick: bool = False,
    episodes: int = EPISODES,
    progress: Progress | None = None,
    on_finding: OnFinding = lambda finding: None,
) -> list[Finding]:
    """Every finding, in the order of the checks; `on_finding` gets each as it comes.

    Args:
        quick: leave out what needs the models themselves.
        episodes: how many student and teacher play in full, on the recipe's first held-out seeds.
    """
    findings: list[Finding] = []

    def keep(found: Iterator[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            on_finding(finding)

    progress = progress or Progress(quiet=True)
    with unnoticed(), ExitStack() as opened:
        keep(ask(check, config) for check in ON_PAPER)
        keep(_of_language(config))
        if quick:
            left_out: tuple[Check[Any], ...] = (*WITH_MODELS, *IN_PLAY)
            keep(not_tried(check, "left out by --quick") for check in left_out)
            return findings
        try:
            ready = open_run(config, progress, opened)
            subject = subject_of(config, ready)
            subject.sampled = subject.play(SAMPLED)
        except Exception as raised:
            keep(_without(raised, "models", "models that load and play", (*WITH_MODELS, *IN_PLAY)))
            return findings
        keep(ask(check, subject) for check in WITH_MODELS)
        try:
            played = play_both(subject, ready, episodes, progress)
        except Exception as raised:
            keep(_without(raised, "episodes", "whole episodes by student and teacher", IN_PLAY))
            return findings
        keep(ask(check, played) for check in IN_PLAY)
    return findings


def _of_language(config: RunConfig) -> Iterator[Finding]:
    try:
        language: Language = read_language(config)
    except Exception as raised:
        yield from _without(raised, "tokenizers", "tokenizers that load", OF_LANGUAGE)
        return
    for check in OF_LANGUAGE:
        yield ask(check, language)


def _without(raised: Exception, name: str, wanted: str, checks: tuple[Check[Any], ...]) -> Iterator[Finding]:
    """A finding about what the checks needed and did not get."""

    def again(_: None) -> Finding:
        raise raised

    yield ask(Check(name, wanted, again), None)
    for check in checks:
        yield not_tried(check, f"there is nothing to try it on: see {name}")


def open_run(config: RunConfig, progress: Progress, opened: ExitStack) -> Ready:
    """A run that stands before its first step, without a run directory.

    Raises:
        UserError: whatever `prepare` would.
    """
    payload = {"config": config.model_dump(mode="json")}
    makes = any(isinstance(s, ModelConfig) and s.imitation for s in (config.student, *teachers_of(config).values()))
    # What is made by several ranks is kept under a name of its own: it is made, and found, as training would.
    student, teachers = launch(
        config.training.ranks if makes else 1,
        "trpd_agents.doctor.examine:make_rank",
        payload,
        lambda world: _make(config, world, progress),
    )
    for lm in teachers.values():
        lm.bfloat16 = pick_autocast(config.learner.dtype, lm.device)
    if config.learner.lora is not None:
        add_adapters(student.model, config.learner.lora, config.seed)
    ready = Ready(student, teachers, turn_limit(EnvSpec(config.env.id, config.env.kwargs), config.env.max_turns))
    for name, section in teachers_of(config).items():
        if isinstance(section, ServerTeacherConfig):
            ready.servers[name] = open_server(
                section, student.tokenizer, top_k=config.top_k, max_tokens=config.rollout.max_tokens
            )
    ready.engine = open_engine(config, student, opened)
    ready.pool = opened.enter_context(pool_of(config))
    return ready


def make_rank(world: World, payload: dict[str, Any]) -> None:
    """What the other ranks' processes execute."""
    _make(RunConfig.model_validate(payload["config"]), world, Progress(quiet=True))


def _make(config: RunConfig, world: World, progress: Progress) -> Made:
    max_turns = turn_limit(EnvSpec(config.env.id, config.env.kwargs), config.env.max_turns)
    return make_models(config, max_turns, world, progress, Stopwatch())
