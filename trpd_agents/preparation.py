"""Before and after the loop: the two models, what they can do, and the summary.

Everything a resumed run needs is in its directory: the teacher as it was made, the student in the newest checkpoint,
and the evaluations that were already done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trpd_agents.checkpointing import Batch, LoopState, restore
from trpd_agents.checkpoints import Checkpoint
from trpd_agents.config import (
    HintedTeacherConfig,
    ModelConfig,
    OracleTeacherConfig,
    RunConfig,
    ServerTeacherConfig,
)
from trpd_agents.dialogue import check_same_tokens
from trpd_agents.distributed import World
from trpd_agents.doctor.start import check_start
from trpd_agents.doctor.subject import Subject, without_cache
from trpd_agents.errors import RunError, UserError
from trpd_agents.evaluation import Evaluation, compare, evaluate, evaluate_expert, turn_limit
from trpd_agents.evaluation.statistics import success_rate
from trpd_agents.learner import Learner
from trpd_agents.lora import ADAPTER, add_adapters, load_adapters, require_peft
from trpd_agents.models import (
    LanguageModel,
    load_model,
    pick_autocast,
    pick_device,
    read_outline,
    resolve_model,
)
from trpd_agents.progress import Progress
from trpd_agents.recording import stored
from trpd_agents.rollout import Engine
from trpd_agents.rollout.demonstrate import require_demonstrator
from trpd_agents.rollout.engine import StudentEngine
from trpd_agents.rollout.local_engine import plain_notices
from trpd_agents.rollout.model_engine import ModelEngine
from trpd_agents.rollout.open_engine import check_engine, open_engine
from trpd_agents.run_directory import RunDirectory
from trpd_agents.starts import make_models
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.teacher import Teacher, TeacherServer, open_server
from trpd_agents.teacher.kept_server import open_kept_servers
from trpd_agents.teacher.of_run import check_hints, keeps_start, taught_by, teacher_of, teachers_of
from trpd_agents.teacher.oracle_replay import require_expert
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.textenv.open_pool import open_pool
from trpd_agents.textenv.pool import EnvPool

EVALUATIONS = "evaluations.json"
BASE = "base"  # what the adapters of `learner.lora` belong to


@dataclass
class Ready:
    """The models of a run, where it stands, and the evaluations done so far (by who: `before`, `teacher`, ...)."""

    student: LanguageModel
    teachers: dict[str, LanguageModel]  # by the names of `teachers_of`; those that are models of their own
    max_turns: int
    checkpoint: Checkpoint | None = None  # to go on from
    evaluations: dict[str, Any] = field(default_factory=dict)
    servers: dict[str, TeacherServer] = field(default_factory=dict)  # likewise, those that are behind one
    engine: StudentEngine = field(init=False)
    pool: EnvPool = field(init=False)


def prepare(
    world: World, config: RunConfig, directory: RunDirectory, progress: Progress, watch: Stopwatch, opened: ExitStack
) -> Ready:
    """Load or make student and teacher, and evaluate each once if wanted. `check_models` has found that they fit.

    What the student's engine holds is given back, and environments' processes end, when `opened` closes.

    Raises:
        UserError: a model cannot be loaded, or the environment has no expert to imitate.
        RunError: the environment failed in every held-out episode.
    """
    env = EnvSpec(config.env.id, config.env.kwargs)
    max_turns = turn_limit(env, config.env.max_turns)
    checkpoint = directory.checkpoints.newest()
    if checkpoint is None:
        student, teachers = make_models(config, max_turns, world, progress, watch)
        ready = Ready(student, teachers, max_turns)
    else:
        load = partial(load_model, device=pick_device(config.learner.device), processes=world.size)
        trained = checkpoint.path / "student" if config.learner.lora is None else directory.path / BASE
        student = load(str(trained), trust_remote_code=config.student.trust_remote_code)
        teachers = {
            name: load(
                str(directory.path / "teacher" / name),
                trust_remote_code=(section if isinstance(section, ModelConfig) else config.student).trust_remote_code,
            )
            for name, section in teachers_of(config).items()
            if isinstance(section, ModelConfig) or keeps_start(section)
        }
        ready = Ready(student, teachers, max_turns, checkpoint)
    if checkpoint is None and world.rank == 0:
        for name, lm in ready.teachers.items():
            with stored(directory, f"teacher {name}".strip()):
                lm.save(directory.path / "teacher" / name)
    for lm in ready.teachers.values():
        lm.bfloat16 = pick_autocast(config.learner.dtype, lm.device)
    if config.learner.lora is not None:
        if checkpoint is None and world.rank == 0:
            with stored(directory, "the base model"):
                student.save(directory.path / BASE)
        add_adapters(student.model, config.learner.lora, config.seed)
        if checkpoint is not None:
            load_adapters(student.model, checkpoint.path / "student" / ADAPTER)
    ready.servers = open_kept_servers(
        teachers_of(config),
        student.tokenizer,
        directory,
        top_k=config.top_k,
        max_tokens=config.rollout.max_tokens,
        writes=world.rank == 0,
        say=progress.say,
    )
    with watch("engine"):
        ready.engine = open_engine(config, student, opened)
        for line in plain_notices(_players(config, ready)):
            progress.say(line)
    ready.pool = opened.enter_context(pool_of(config))
    if config.training.doctor and world.rank == 0:
        check_start(subject_of(config, ready), progress)
    # Those made after the checkpoint will be made again, of a student that may become another one.
    here = 0 if checkpoint is None else checkpoint.step
    known: dict[str, Any] = directory.read_json(EVALUATIONS) or {}
    ready.evaluations = {name: found for name, found in known.items() if found["step"] <= here}
    wanted = {name for name in ("before", "teacher") if getattr(config.evaluation, name)} - ready.evaluations.keys()
    if checkpoint is not None and checkpoint.step > 0 and "before" in wanted:
        raise UserError(
            f"{directory.path / EVALUATIONS} has no evaluation of the student before training, which cannot be made "
            f"again after {checkpoint.step} steps; put the file back, set evaluation.before=false, or start a new run"
        )
    if "before" in wanted:
        title = "evaluate student before"
        found = evaluate_model(world, config, student, max_turns, progress, watch, title, ready.engine, ready.pool)
        record_evaluation(world, directory, ready, "before", found, LoopState())
    if "teacher" in wanted:
        found = evaluate_teacher(world, config, ready, progress, watch, "evaluate teacher")
        record_evaluation(world, directory, ready, "teacher", found, LoopState())
    return ready


def _players(config: RunConfig, ready: Ready) -> list[LanguageModel]:
    """The models that are played in this process."""
    players = [ready.student] if isinstance(ready.engine, ModelEngine) else []
    teacher_plays = config.evaluation.teacher or config.credit.method.guidance.kind != "none"
    return players + list(ready.teachers.values()) if teacher_plays else players


def pool_of(config: RunConfig) -> EnvPool:
    """What a run's environments are played in; ranks share the machine's cores."""
    env = config.env
    return open_pool(env.workers, seconds=env.step_seconds, memory_mb=env.memory_mb, share=config.training.ranks)


def make_teacher(config: RunConfig, ready: Ready) -> Teacher:
    """The teacher of a run, which returns with its scores what the method reads."""
    return teacher_of(config, ready.student, ready.teachers, ready.servers)


def subject_of(config: RunConfig, ready: Ready) -> Subject:
    """What the doctor's checks look at."""
    teacher = make_teacher(without_cache(config), ready)
    return Subject(config, ready.student, teacher, ready.teachers, ready.engine, ready.pool, ready.max_turns)


def check_models(config: RunConfig, started: RunDirectory | None = None) -> None:
    """Refuse models that cannot be a pair, by tokenizers and settings: no weights are read, nothing is trained.

    Imitation changes neither, so what holds for the models it starts from holds for those it makes. With `started`, a
    run to go on with, its own copies of the models are looked at.

    Raises:
        UserError: a model is not there or has no tokenizer; the teacher's scores would not be about the student's
            tokens; the method reads more top tokens than there are; the context is too short; a damaged checkpoint.
    """
    pick_autocast(config.learner.dtype, pick_device(config.learner.device))
    if config.learner.lora is not None:
        require_peft()
    checkpoint = started.checkpoints.newest() if started is not None else None
    models: dict[str, ModelConfig] = {"student": config.student}
    folders = {} if started is None or checkpoint is None else {"student": checkpoint.path / "student"}
    for name, section in teachers_of(config).items():
        if isinstance(section, ModelConfig):
            models[f"teacher {name}".strip()] = section
            if started is not None and checkpoint is not None:
                folders[f"teacher {name}".strip()] = started.path / "teacher" / name
    sources = {who: str(folders[who].absolute()) if folders else model.model for who, model in models.items()}
    for source in sources.values():
        resolve_model(source)  # what is not there is found before what is there is read
    check_engine(config.rollout, sources["student"], config.student, pick_device(config.learner.device))
    _check_experts(config)
    outlines = {who: read_outline(sources[who], model.trust_remote_code) for who, model in models.items()}
    student = outlines["student"]
    for who, teacher in outlines.items():
        if who != "student":
            check_same_tokens(
                student.tokenizer,
                teacher.tokenizer,
                student_vocab_size=student.vocab_size,
                teacher_vocab_size=teacher.vocab_size,
            )
    check_hints(config, student)
    for section in teachers_of(config).values():
        if isinstance(section, ServerTeacherConfig):
            open_server(section, student.tokenizer, top_k=config.top_k, max_tokens=config.rollout.max_tokens)
    smaller = min(outline.vocab_size for outline in outlines.values())
    if config.top_k > smaller:
        key = "training.save_top_k" if config.top_k == config.training.save_top_k else "credit.outlier.top_k"
        raise UserError(f"{key}={config.top_k} is more than the models' vocabulary of {smaller} tokens; lower it")
    for who, outline in outlines.items():
        if outline.context is not None and config.rollout.max_tokens > outline.context:
            raise UserError(
                f"rollout.max_tokens={config.rollout.max_tokens} is more than the {who}'s context of {outline.context} "
                "tokens; lower it"
            )


def _check_experts(config: RunConfig) -> None:
    """Refuse an environment that lacks what the oracle or a demonstration with mistakes asks of it."""
    demonstrated = [
        model.imitation
        for model in (config.student, *teachers_of(config).values())
        if isinstance(model, ModelConfig) and model.imitation is not None
    ]
    for spec in taught_by(config, OracleTeacherConfig):
        with closing(make(spec)) as taught:
            require_expert(taught)
    env = make(EnvSpec(config.env.id, config.env.kwargs))
    try:
        for imitation in demonstrated:
            require_demonstrator(env, imitation.mistakes)
    finally:
        env.close()


def resume(
    ready: Ready, world: World, learner: Learner, engine: Engine, watch: Stopwatch
) -> tuple[LoopState, Batch | None]:
    """Put the checkpoint's state back, if there is one; where the run stands, and the batch that was played ahead."""
    if ready.checkpoint is None:
        return LoopState(), None
    loop, ahead, carried = restore(world, learner, ready.checkpoint)
    watch.seconds.update(carried["seconds"])
    watch.tokens.update(carried["tokens"])
    engine.version = learner.steps
    return loop, ahead


def evaluate_model(
    world: World,
    config: RunConfig,
    lm: LanguageModel,
    max_turns: int,
    progress: Progress,
    watch: Stopwatch,
    title: str,
    engine: Engine | None = None,
    pool: EnvPool | None = None,
) -> Evaluation:
    """Held-out episodes, with the run's own limits, played by `lm`, or by `engine` with the tokenizer of `lm`.

    Raises:
        RunError: the environment failed in all of them.
    """
    play = partial(
        evaluate,
        lm,
        EnvSpec(config.env.id, config.env.kwargs),
        config.evaluation.episodes,
        max_new_tokens=config.rollout.max_new_tokens,
        max_tokens=config.rollout.max_tokens,
        episode_seconds=config.rollout.episode_seconds,
        engine=engine,
        pool=pool,
    )
    return _evaluated(play, world, config, max_turns, progress, watch, title)


def evaluate_teacher(
    world: World, config: RunConfig, ready: Ready, progress: Progress, watch: Stopwatch, title: str
) -> Evaluation:
    """Like `evaluate_model`; an oracle's episodes are the expert's, and others than models play with their engine."""
    (name, section), *others = teachers_of(config).items()
    if others or not isinstance(section, OracleTeacherConfig):
        lm, engine = ready.teachers.get(name, ready.student), None
        if others or isinstance(section, HintedTeacherConfig | ServerTeacherConfig):
            engine = make_teacher(config, ready).engine
        return evaluate_model(world, config, lm, ready.max_turns, progress, watch, title, engine, ready.pool)
    env = EnvSpec(config.env.id, config.env.kwargs)
    play = partial(evaluate_expert, env, ready.student.tokenizer, config.evaluation.episodes)
    return _evaluated(play, world, config, ready.max_turns, progress, watch, title)


def _evaluated(
    play: Callable[..., Evaluation],
    world: World,
    config: RunConfig,
    max_turns: int,
    progress: Progress,
    watch: Stopwatch,
    title: str,
) -> Evaluation:
    share = len(world.shard(range(config.evaluation.episodes)))
    with watch("evaluate"), progress.phase(title, config.evaluation.episodes) as shown:
        finished = 0

        def on_finish(_: object) -> None:
            nonlocal finished
            finished += 1
            shown.update(finished * config.evaluation.episodes // share)

        found = play(seed=config.evaluation.seed, max_turns=max_turns, world=world, on_finish=on_finish)
    if not found.episodes:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in found.errors.items())
        raise RunError(f"the environment failed in every held-out episode: {kinds}")
    watch.tokens["evaluate"] += found.tokens
    return found


def record_evaluation(
    world: World, directory: RunDirectory, ready: Ready, name: str, found: Evaluation, loop: LoopState
) -> None:
    """Keep an evaluation made where `loop` stands, in memory on every rank and in the run directory."""
    made = {"step": loop.step, "environment_steps": loop.environment_steps}
    outcomes = {str(seed): flags for seed, flags in found.outcomes.items()}
    ready.evaluations[name] = {**made, **found.summary(), "outcomes": outcomes}
    if world.rank == 0:
        with stored(directory, f"the evaluation '{name}'"):
            directory.write_json(EVALUATIONS, ready.evaluations)


def conclude(
    world: World,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
    ready: Ready,
    loop: LoopState,
    watch: Stopwatch,
) -> dict[str, Any]:
    """Evaluate the trained student, write it out, and sum up."""
    if ready.evaluations.get("after", {}).get("step") != loop.step:  # a run resumed for more steps is evaluated again
        title, limit = "evaluate student after", ready.max_turns
        found = evaluate_model(world, config, ready.student, limit, progress, watch, title, ready.engine, ready.pool)
        record_evaluation(world, directory, ready, "after", found, loop)
    summary = _summary(ready, watch)
    if world.rank == 0:
        with stored(directory, "the trained student"):
            ready.student.save(directory.path / "student")
            directory.write_json("summary.json", summary)
    return summary | {"run_dir": str(directory.path)}


def _summary(ready: Ready, watch: Stopwatch) -> dict[str, Any]:
    """Of the evaluations that were made; a difference needs the student's before and after."""
    outcomes = {
        name: {int(seed): flags for seed, flags in ready.evaluations[name]["outcomes"].items()}
        for name in ("before", "after", "teacher")
        if name in ready.evaluations
    }
    summary: dict[str, Any] = {}
    for name, found in outcomes.items():
        rate = success_rate(found)
        summary[name] = {
            "success_rate": rate.mean,
            "interval": [rate.low, rate.high],
            "episodes": sum(map(len, found.values())),
        }
    if "before" in outcomes:
        difference = compare(outcomes["before"], outcomes["after"])
        summary["paired_difference"] = {"mean": difference.mean, "interval": [difference.low, difference.high]}
    seconds = {name: round(value, 3) for name, value in watch.seconds.items()}
    return {**summary, "seconds": seconds, "tokens": dict(watch.tokens)}
