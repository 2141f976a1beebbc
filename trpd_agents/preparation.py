"""Before and after the loop: the two models, what they can do, and the summary.

Everything a resumed run needs is in its directory: the teacher as it was made, the student in the newest checkpoint,
and the evaluations that were already done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trpd_agents.checkpointing import restore
from trpd_agents.config import ModelConfig, RunConfig
from trpd_agents.dialogue import check_same_tokens
from trpd_agents.distributed import World
from trpd_agents.errors import RunError, UserError
from trpd_agents.evaluation import Evaluation, compare, evaluate, turn_limit
from trpd_agents.evaluation.statistics import success_rate
from trpd_agents.imitation import prepare_model
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel, load_model, pick_device, read_outline, resolve_model
from trpd_agents.progress import Progress
from trpd_agents.rollout import Engine
from trpd_agents.run_directory import RunDirectory, load_state
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.textenv import EnvSpec

EVALUATIONS = "evaluations.json"


@dataclass
class Ready:
    """The models of a run, where it stands, and the evaluations done so far (by who: `before`, `teacher`, ...)."""

    student: LanguageModel
    teacher: LanguageModel
    max_turns: int
    step: int = 0
    state: dict[str, Any] | None = None  # of the checkpoint to go on from
    evaluations: dict[str, Any] = field(default_factory=dict)


def prepare(world: World, config: RunConfig, directory: RunDirectory, progress: Progress, watch: Stopwatch) -> Ready:
    """Load or make student and teacher, and evaluate both once. `check_models` has found that they fit.

    Raises:
        UserError: a model cannot be loaded, or the environment has no expert to imitate.
        RunError: the environment failed in every held-out episode.
    """
    env = EnvSpec(config.env.id, config.env.kwargs)
    max_turns = turn_limit(env, config.env.max_turns)
    checkpoint = directory.newest_checkpoint()
    if checkpoint is None:
        with watch("teacher"):
            teacher = _model("teacher", config.teacher, config, env, max_turns, world, progress)
        with watch("student"):
            student = _model("student", config.student, config, env, max_turns, world, progress)
        ready = Ready(student, teacher, max_turns)
    else:
        step, path = checkpoint
        device = pick_device(config.learner.device)
        student, teacher = (
            load_model(str(source), device=device, trust_remote_code=trusted, processes=world.size)
            for source, trusted in (
                (path / "student", config.student.trust_remote_code),
                (directory.path / "teacher", config.teacher.trust_remote_code),
            )
        )
        ready = Ready(student, teacher, max_turns, step, load_state(path))
    if checkpoint is None and world.rank == 0:
        ready.teacher.save(directory.path / "teacher")
    ready.evaluations = directory.read_json(EVALUATIONS) or {}
    if ready.step > 0 and "before" not in ready.evaluations:
        raise UserError(
            f"{directory.path / EVALUATIONS} has no evaluation of the student before training, which cannot be made "
            f"again after {ready.step} steps; put the file back, or start a new run"
        )
    for name, lm in (("before", ready.student), ("teacher", ready.teacher)):
        if name not in ready.evaluations and (name == "teacher" or ready.step == 0):
            found = evaluate_model(world, config, lm, max_turns, progress, watch, f"evaluate {_CALLED[name]}")
            record_evaluation(world, directory, ready, name, found, 0)
    return ready


def check_models(config: RunConfig, started: RunDirectory | None = None) -> None:
    """Refuse models that cannot be a pair, by tokenizers and settings: no weights are read, nothing is trained.

    Imitation changes neither, so what holds for the models it starts from holds for those it makes. With `started`, a
    run to go on with, its own copies of the models are looked at.

    Raises:
        UserError: a model is not there or has no tokenizer; the teacher's scores would not be about the student's
            tokens; the method reads more top tokens than there are; the context is too short; a damaged checkpoint.
    """
    checkpoint = started.newest_checkpoint() if started is not None else None
    if started is None or checkpoint is None:
        sources = {"student": config.student.model, "teacher": config.teacher.model}
    else:
        folders = {"student": checkpoint[1], "teacher": started.path}
        sources = {who: str(folder.absolute() / who) for who, folder in folders.items()}
    for source in sources.values():
        resolve_model(source)  # what is not there is found before what is there is read
    student = read_outline(sources["student"], config.student.trust_remote_code)
    teacher = read_outline(sources["teacher"], config.teacher.trust_remote_code)
    check_same_tokens(
        student.tokenizer,
        teacher.tokenizer,
        student_vocab_size=student.vocab_size,
        teacher_vocab_size=teacher.vocab_size,
    )
    smaller = min(student.vocab_size, teacher.vocab_size)
    if config.top_k > smaller:
        raise UserError(
            f"credit.outlier.top_k={config.top_k} is more than the models' vocabulary of {smaller} tokens; lower it"
        )
    for who, outline in (("student", student), ("teacher", teacher)):
        if outline.context is not None and config.rollout.max_tokens > outline.context:
            raise UserError(
                f"rollout.max_tokens={config.rollout.max_tokens} is more than the {who}'s context of {outline.context} "
                "tokens; lower it"
            )


def resume(ready: Ready, world: World, learner: Learner, engine: Engine, watch: Stopwatch) -> int:
    """Put the checkpoint's state back, if there is one; the number of steps already done."""
    if ready.state is not None:
        carried = restore(world, learner, ready.state)
        watch.seconds.update(carried["seconds"])
        watch.tokens.update(carried["tokens"])
        engine.version = learner.steps
    return ready.step


def evaluate_model(
    world: World, config: RunConfig, lm: LanguageModel, max_turns: int, progress: Progress, watch: Stopwatch, title: str
) -> Evaluation:
    """Held-out episodes, with the run's own limits.

    Raises:
        RunError: the environment failed in all of them.
    """
    share = len(world.shard(range(config.evaluation.episodes)))
    with watch("evaluate"), progress.phase(title, config.evaluation.episodes) as shown:
        finished = 0

        def on_finish(_: object) -> None:
            nonlocal finished
            finished += 1
            shown.update(finished * config.evaluation.episodes // share)

        found = evaluate(
            lm,
            EnvSpec(config.env.id, config.env.kwargs),
            config.evaluation.episodes,
            seed=config.evaluation.seed,
            max_turns=max_turns,
            max_new_tokens=config.rollout.max_new_tokens,
            max_tokens=config.rollout.max_tokens,
            episode_seconds=config.rollout.episode_seconds,
            world=world,
            on_finish=on_finish,
        )
    if not found.episodes:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in found.errors.items())
        raise RunError(f"the environment failed in every held-out episode: {kinds}")
    watch.tokens["evaluate"] += found.tokens
    return found


def record_evaluation(
    world: World, directory: RunDirectory, ready: Ready, name: str, found: Evaluation, step: int
) -> None:
    """Keep an evaluation made after `step` updates, in memory on every rank and in the run directory."""
    outcomes = {str(seed): flags for seed, flags in found.outcomes.items()}
    ready.evaluations[name] = {"step": step, **found.summary(), "outcomes": outcomes}
    if world.rank == 0:
        directory.write_json(EVALUATIONS, ready.evaluations)


def conclude(
    world: World, config: RunConfig, directory: RunDirectory, progress: Progress, ready: Ready, watch: Stopwatch
) -> dict[str, Any]:
    """Evaluate the trained student, write it out, and sum up."""
    done = config.training.steps
    if ready.evaluations.get("after", {}).get("step") != done:  # a run resumed for more steps is evaluated again
        found = evaluate_model(world, config, ready.student, ready.max_turns, progress, watch, "evaluate student after")
        record_evaluation(world, directory, ready, "after", found, done)
    summary = _summary(ready, watch)
    if world.rank == 0:
        ready.student.save(directory.path / "student")
        directory.write_json("summary.json", summary)
    return summary | {"run_dir": str(directory.path)}


_CALLED = {"before": "student before", "teacher": "teacher"}


def _summary(ready: Ready, watch: Stopwatch) -> dict[str, Any]:
    outcomes = {
        name: {int(seed): flags for seed, flags in ready.evaluations[name]["outcomes"].items()}
        for name in ("before", "after", "teacher")
    }
    rows = {name: success_rate(found) for name, found in outcomes.items()}
    difference = compare(outcomes["before"], outcomes["after"])
    return {
        **{
            name: {
                "success_rate": rate.mean,
                "interval": [rate.low, rate.high],
                "episodes": sum(map(len, outcomes[name].values())),
            }
            for name, rate in rows.items()
        },
        "paired_difference": {"mean": difference.mean, "interval": [difference.low, difference.high]},
        "seconds": {name: round(value, 3) for name, value in watch.seconds.items()},
        "tokens": dict(watch.tokens),
    }


def _model(
    who: str,
    model: ModelConfig,
    config: RunConfig,
    env: EnvSpec,
    max_turns: int,
    world: World,
    progress: Progress,
) -> LanguageModel:
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
