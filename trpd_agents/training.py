"""The whole method, top to bottom: play, score, decide what to believe, update; and evaluate before and after.

    environments -> rollout -> trajectories -> teacher -> scored trajectories -> credit -> weights -> learner -> student

Every rank of a data-parallel run executes `_run` on its share of the episodes; rank 0 writes and prints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from trpd_agents.atomic import write_text
from trpd_agents.checkpointing import Batch, Boundary, LoopState, at_boundary
from trpd_agents.config import RunConfig, dump_config, load_config
from trpd_agents.config.changes import require_meant
from trpd_agents.config.trust import trusted_models
from trpd_agents.counter_rng import uniform
from trpd_agents.credit import Credit, assign_credit
from trpd_agents.credit.config import Rule, Thresholds
from trpd_agents.credit.curriculum import deepens, turn_cap
from trpd_agents.dialogue import end_ids
from trpd_agents.distributed import World, launch
from trpd_agents.errors import RunError, UserError
from trpd_agents.histograms import histograms
from trpd_agents.interrupt import Interrupted, StopRequest, stop_on_signal
from trpd_agents.learner import Learner
from trpd_agents.learner.correction import correct, seen_by_trainer
from trpd_agents.metrics import MetricsWriter, counted_divergences, step_figures, sum_by_turn
from trpd_agents.models import pick_device
from trpd_agents.preparation import (
    Ready,
    check_models,
    conclude,
    evaluate_model,
    make_teacher,
    prepare,
    record_evaluation,
    resume,
)
from trpd_agents.progress import Progress
from trpd_agents.recording import account, headline, record, save, stored, working
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, make_guide
from trpd_agents.rollout.student_weights import push_weights
from trpd_agents.rollout.weight_probe import WeightProbe, openings
from trpd_agents.run_directory import RunDirectory, default_run_directory
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.teacher.cached import cache_figures
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.preflight import check_environment
from trpd_agents.trackers import check_trackers
from trpd_agents.trajectory import ScoredBatch, Trajectory, pad_scored

Here = TypeVar("Here")
There = TypeVar("There")

TRAINING_SEEDS = 1 << 30  # training environments are seeded below this, around the held-out seeds


def train(
    config: RunConfig | str | Path,
    run_dir: Path | str | None = None,
    resume: Path | str | None = None,
    *,
    may_differ: Collection[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train as `config` says and return the summary that is also written to the run directory.

    Args:
        config: a `RunConfig`, or the path of a YAML file.
        run_dir: where to write; by default `runs/<config>-<time>`. It must not exist.
        resume: an existing run directory to continue from its newest checkpoint that is whole.
        may_differ: dotted keys of the configuration that are meant to be other than the resumed run was saved with.
        quiet: print nothing.

    Raises:
        UserError: anything that cannot work, before a model loads.
        Interrupted: stopped by Ctrl-C or SIGTERM, after saving.
    """
    name = "run" if isinstance(config, RunConfig) else Path(config).stem
    config = config if isinstance(config, RunConfig) else load_config(config)
    device = pick_device(config.learner.device)
    if config.training.ranks > 1 and device.type != "cpu":
        raise UserError(
            f"training.ranks={config.training.ranks} with learner.device={config.learner.device}, which is "
            f"{device.type} here: ranks share a CPU's cores; set learner.device=cpu, or training.ranks=1"
        )
    progress = Progress(quiet)
    with contextlib.ExitStack() as held:
        started = RunDirectory.open(Path(resume)) if resume is not None else None
        changed: list[str] = []
        if started is not None:
            held.enter_context(started.locked())
            changed = _changed_settings(config, started, may_differ)
        check_trackers(config.tracking)
        check_models(config, started)
        check_environment(EnvSpec(config.env.id, config.env.kwargs), max_turns=config.env.max_turns)
        directory = started or RunDirectory.create(
            Path(run_dir) if run_dir else default_run_directory(name), dump_config(config)
        )
        if started is None:
            held.enter_context(directory.locked())
        for line in directory.checkpoints.set_aside_damaged():
            progress.say(line)
        if changed:
            progress.say(f"going on with other settings: {', '.join(changed)}")
            with stored(directory, "config.yaml"):
                write_text(directory.path / "config.yaml", dump_config(config))
        return _launch(config, directory, started is None, progress)


def _changed_settings(config: RunConfig, started: RunDirectory, may_differ: Collection[str]) -> list[str]:
    """What is other than in the run's checkpoint. Raises UserError unless it is meant to be."""
    checkpoint = started.checkpoints.newest()
    if checkpoint is None or checkpoint.config is None:
        return []
    return require_meant(checkpoint.config, config.model_dump(mode="json"), may_differ)


def _launch(config: RunConfig, directory: RunDirectory, is_new: bool, progress: Progress) -> dict[str, Any]:
    payload = {"config": config.model_dump(mode="json"), "run_dir": str(directory.path.resolve())}
    progress.say(f"run directory: {directory.path}")
    if trusted := trusted_models(config):
        progress.say(f"trust_remote_code: Python code that comes with the model is run: {', '.join(trusted)}")
    with stop_on_signal(progress.say) as stop:
        try:
            return launch(
                config.training.ranks,
                "trpd_agents.training:run_rank",
                payload,
                lambda world: _run(world, config, directory, progress, stop),
            )
        except UserError:
            if is_new:
                directory.discard()  # the same command can be given again once the mistake is corrected
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {go_on(directory)}") from None


def run_rank(world: World, payload: dict[str, Any]) -> None:
    """What the other ranks' processes execute."""
    config = RunConfig.model_validate(payload["config"])
    _run(world, config, RunDirectory(Path(payload["run_dir"])), Progress(quiet=True), StopRequest())


def _run(
    world: World, config: RunConfig, directory: RunDirectory, progress: Progress, stop: StopRequest
) -> dict[str, Any]:
    torch.manual_seed(config.seed + world.rank)
    watch = Stopwatch()
    with contextlib.ExitStack() as opened:
        ready = prepare(world, config, directory, progress, watch, opened)
        return _loop(world, config, directory, progress, stop, watch, ready, opened)


def _loop(
    world: World,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
    stop: StopRequest,
    watch: Stopwatch,
    ready: Ready,
    opened: contextlib.ExitStack,
) -> dict[str, Any]:
    method, budget = config.credit.method, config.training
    student, engine, max_turns = ready.student, ready.engine, ready.max_turns
    env = EnvSpec(config.env.id, config.env.kwargs)
    collector = Collector(
        env,
        engine,
        student.tokenizer,
        Sampling(config.rollout.max_new_tokens, frozenset(end_ids(student.tokenizer)), seed=config.seed),
        Limits(max_turns, config.rollout.max_tokens, config.rollout.episode_seconds),
        ready.pool,
    )
    teacher = make_teacher(config, ready)
    learner = Learner(student, config.learner, world)
    probe = WeightProbe(engine, student, world, config.rollout.engine.max_gap)
    probe.start(openings(env, student, [config.evaluation.seed, config.evaluation.seed + 1]))
    loop, batch = resume(ready, world, learner, engine, watch)
    boundary = at_boundary(world, learner, loop, batch)
    writer = None
    if world.rank == 0:
        with stored(directory, "metrics"):
            writer = opened.enter_context(MetricsWriter(config, directory, loop.step, progress.say))
        directory.checkpoints.forget_best_after(loop.step)
        if loop.step == 0:
            with stop.held():
                save(config, directory, boundary, student, learner, watch)
    saved = loop.step

    def play(step: int, added_turns: int, share: float) -> Batch:
        cap = turn_cap(method.curriculum, step, added_turns, max_turns)
        with watch("rollout"):
            guide = make_guide(method.guidance, method.divergence, teacher.engine, share, config.seed)
            played = collector.collect(world.shard(episodes_of(config, step)), guide, max_turns=cap)
        return Batch(played, cap, collector.take_steps(), collector.take_seconds())

    def learn(
        batch: Batch, loop: LoopState, share: float
    ) -> tuple[list[Trajectory], ScoredBatch, Credit, dict[str, Any]]:
        """Everything between playing and the next weights: what was learned from, its credit, and figures."""
        trajectories = usable(world, batch.played)
        with watch("score"), working(directory, "the teacher", loop.step + 1):
            for trajectory, scores in zip(trajectories, teacher.score(trajectories), strict=True):
                trajectory.scores = scores
            gap = {"sampler_gap": probe.sampled(trajectories)} if not budget.staleness else {}
            seen = seen_by_trainer(student, trajectories, config.learner)
        with watch("credit"):
            scored = pad_scored(seen)
            credit = assign_credit(scored, method, loop.step, config.seed, loop.recent)
            credit, corrected = correct(world, credit, method, trajectories, seen, config.learner.correction)
        with watch("update"):
            stale = staleness(world, config, learner, trajectories)
            update = learner.update(seen, credit, method, teacher, progress=share)
        return trajectories, scored, credit, {**update, **gap, **corrected, **stale}

    def one_step(loop: LoopState, batch: Batch | None, share: float) -> tuple[LoopState, Batch | None]:
        """Where the run stands after a step with `batch`, and the next step's batch if that was played meanwhile."""
        batch = batch or play(loop.step, loop.added_turns, share)
        environment_steps = loop.environment_steps + int(world.sum(float(batch.environment_steps))[0])
        ahead = budget.progress(loop.step + 1, environment_steps)
        if budget.staleness and ahead < 1:
            following, learned = beside(
                partial(play, loop.step + 1, loop.added_turns, ahead), partial(learn, batch, loop, share)
            )
        else:
            engine.rest()
            following, learned = None, learn(batch, loop, share)
        trajectories, scored, credit, update = learned
        with watch("update"):
            push_weights(engine, student, learner.steps)
            pushed = probe.pushed()
        with watch("write"), stop.held():
            by_turn = sum_by_turn(world, trajectories, scored, credit, max_turns)
            deeper = deepens(method.curriculum, batch.cap, by_turn.divergence, by_turn.counted, max_turns)
            now = LoopState(
                step=loop.step + 1,
                environment_steps=environment_steps,
                added_turns=loop.added_turns + deeper,
                recent=recent_divergences(world, method.rule, loop.recent, trajectories, credit),
            )
            now = replace(now, owes_evaluation=evaluation_due(config, loop, now))
            figures: dict[str, Any] = step_figures(world, batch.played, trajectories, credit)
            figures |= {"environment_steps": now.environment_steps, "turn_cap": batch.cap, **by_turn.figures()}
            figures |= {"sampler_gap": pushed, **update}
            figures |= histograms(world, scored, credit) | cache_figures(world, teacher)
            figures |= account(watch, figures, batch.seconds)
            record(world, config, directory, writer, now.step, figures, batch.played)
            shown.update(now.step if budget.steps else now.environment_steps, headline(figures))
        return now, following

    def settle(boundary: Boundary, saved: int) -> LoopState:
        """Make the evaluation that is due, if one is; the best so far is worth a checkpoint."""
        if not boundary.loop.owes_evaluation:
            return boundary.loop
        now = replace(boundary.loop, owes_evaluation=False)
        stop.in_step = False
        found = evaluate_model(world, config, student, max_turns, Progress(quiet=True), watch, "", engine, ready.pool)
        with stop.held():
            record_evaluation(world, directory, ready, f"step-{now.step:06d}", found, now)
            best = directory.checkpoints.best()
            if world.rank == 0 and (best is None or found.success_rate.mean > best[1]):
                if saved != now.step:
                    save(config, directory, boundary, student, learner, watch)
                with stored(directory, "which checkpoint is the best"):
                    directory.checkpoints.mark_best(now.step, found.success_rate.mean)
        return now

    with progress.phase(f"distil: {config.credit.preset}", budget.steps or budget.environment_steps or 0) as shown:
        try:
            loop = settle(boundary, saved)
            while (share := budget.progress(loop.step, loop.environment_steps)) < 1:
                stop.in_step = True
                loop, batch = one_step(loop, batch, share)
                stopping = bool(world.sum(float(stop.asked))[0])
                over = budget.progress(loop.step, loop.environment_steps) == 1
                boundary = at_boundary(
                    world, learner, replace(loop, owes_evaluation=not over and loop.owes_evaluation), batch
                )
                if loop.step % budget.checkpoint_every == 0 or over or stopping:
                    if world.rank == 0:
                        with watch("write"), stop.held():
                            save(config, directory, boundary, student, learner, watch)
                    saved = loop.step
                if stopping and not over:
                    raise Interrupted(f"stopped after {stand(config, loop)}; {go_on(directory)}")
                loop = settle(boundary, saved)
        except KeyboardInterrupt:
            # What the abandoned step has drawn and played is forgotten; unless its update has begun, nothing else is.
            untouched = learner.steps == boundary.optimizer_steps and not learner.moving
            if world.rank == 0 and boundary.loop.step > saved and untouched:
                with stop.held():
                    save(config, directory, boundary, student, learner, watch)
            where = stand(config, boundary.loop)
            raise Interrupted(f"abandoned what it was doing after {where}; {go_on(directory)}") from None
    stop.in_step = False
    return conclude(world, config, directory, progress, ready, loop, watch)


def go_on(directory: RunDirectory) -> str:
    return f"go on with: trpd train --resume {directory.path}"


def beside(here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
    """What both return: `here` runs in this thread, where environments can be limited in time, `there` in another."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(there)
        return here(), other.result()


def staleness(
    world: World, config: RunConfig, learner: Learner, trajectories: Sequence[Trajectory]
) -> dict[str, float]:
    """How many optimiser steps old the weights are that sampled these episodes, at most; nothing for a run in step.

    Raises:
        RunError: more than the updates on one batch, which is what `training.staleness` allows.
    """
    if not config.training.staleness:
        return {}
    oldest = max((learner.steps - t.policy_version for t in trajectories), default=0)
    found = max(world.gather(oldest))
    allowed = config.training.staleness * config.learner.minibatches * config.learner.epochs_per_batch
    if found > allowed:
        raise RunError(f"episodes were sampled with weights {found} optimiser steps old; at most {allowed} expected")
    return {"staleness": float(found)}


def stand(config: RunConfig, loop: LoopState) -> str:
    """Where the run stands, measured as its length is."""
    if config.training.steps is not None:
        return f"step {loop.step} of {config.training.steps}"
    return f"step {loop.step}, with {loop.environment_steps} of {config.training.environment_steps} environment steps"


def evaluation_due(config: RunConfig, before: LoopState, now: LoopState) -> bool:
    """Whether another so many updates, or turns in training, were completed between two states."""
    counts = (
        (config.evaluation.every, before.step, now.step),
        (config.evaluation.every_environment_steps, before.environment_steps, now.environment_steps),
    )
    return any(every and old // every < new // every for every, old, new in counts)


def recent_divergences(
    world: World, rule: Rule, before: torch.Tensor, trajectories: Sequence[Trajectory], credit: Credit
) -> torch.Tensor:
    """The latest turns' divergences, `before` them those of earlier steps; none unless the rule's thresholds are
    quantiles of them.
    """
    if not isinstance(rule, Thresholds) or rule.thresholds != "quantile":
        return before
    return torch.cat([before, counted_divergences(world, trajectories, credit)])[-rule.window :]


def episodes_of(config: RunConfig, step: int) -> list[Episode]:
    """The episodes of a step: `episodes_per_step / group_size` environment seeds, each played `group_size` times.

    A function of the configuration and the step alone, so that a resumed run plays what it would have played. Seeds are
    drawn anew each step, never a held-out one.
    """
    training, held_out = config.training, config.evaluation
    groups = training.episodes_per_step // training.group_size
    draws = uniform(config.seed, step, torch.arange(groups))
    seeds = [int(u * (TRAINING_SEEDS - held_out.episodes)) for u in draws.tolist()]
    seeds = [seed if seed < held_out.seed else seed + held_out.episodes for seed in seeds]
    first = step * training.episodes_per_step
    return [Episode(seeds[i // training.group_size], first + i) for i in range(training.episodes_per_step)]


def usable(world: World, played: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes that the environment did not fail in.

    Raises:
        RunError: it failed in all of them, on every rank.
    """
    kept = [t for t in played if t.error is None]
    if world.sum(float(len(kept)))[0] == 0:
        error = next((t.error for t in played if t.error is not None), {"kind": "unknown", "message": ""})
        raise RunError(f"the environment failed in every episode of this step: {error['kind']}: {error['message']}")
    return kept
