"""Making a start: supervised learning from demonstrations, and the cache that makes it once.

Imitation is the learner's third loss stream and nothing else: demonstrations are trajectories that the teacher wrote.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from trpd_agents import __version__
from trpd_agents.config import ImitationConfig, LearnerConfig, ModelConfig
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import ClosedGate, PrefixGuidance
from trpd_agents.dialogue import check_same_tokens, end_ids
from trpd_agents.distributed import World
from trpd_agents.errors import UserError
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel, content_hash, load_model, pick_device
from trpd_agents.rollout import Collector, Episode, Limits, Sampling
from trpd_agents.rollout.demonstrate import demonstrate
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.source import source_hash
from trpd_agents.trajectory import Trajectory, pad_scored
from trpd_agents.user_cache import cache_directory

IMITATION = CreditConfig(gate=ClosedGate(), guidance=PrefixGuidance(beta=1.0))  # only what the teacher wrote is learned
DEMONSTRATION_SEEDS = 1 << 30  # demonstrations never share a seed with training or evaluation episodes

Progress = Callable[[int, int, dict[str, float]], None]  # updates done, updates in all, figures


def imitate(
    lm: LanguageModel,
    demonstrations: Sequence[Trajectory],
    config: ImitationConfig,
    *,
    learner: LearnerConfig,
    world: World | None = None,
    progress: Progress | None = None,
) -> None:
    """Train `lm` in place on the action tokens of `demonstrations`, the same list on every rank.

    `learner` says how to compute (device, dtype, token budget, clipping); the step size comes from `config`, with a
    short warm-up and a cosine to zero.
    """
    world = world or World()
    settings = learner.model_copy(
        update={
            "lr": config.lr,
            "warmup_steps": max(1, config.updates // 10),
            "schedule": "cosine",
            "epochs_per_batch": 1,
            "minibatches": 1,
        }
    )
    trainer = Learner(lm, settings, world)
    rng = np.random.default_rng(config.seed)
    order = np.zeros(0, dtype=np.int64)
    for update in range(config.updates):
        while len(order) < config.batch:  # every demonstration once, in a new order, before any comes again
            order = np.concatenate([order, rng.permutation(len(demonstrations))])
        chosen, order = order[: config.batch], order[config.batch :]
        batch = [demonstrations[i] for i in world.shard(chosen.tolist())]
        scored = pad_scored(batch)
        scored = dataclasses.replace(scored, teacher_available=torch.ones_like(scored.teacher_available))
        figures = trainer.update(batch, assign_credit(scored, IMITATION), IMITATION, progress=update / config.updates)
        if progress is not None:
            progress(update + 1, config.updates, figures)


def gather_demonstrations(
    env: EnvSpec, dialogues: Dialogues, config: ImitationConfig, *, max_turns: int, world: World | None = None
) -> list[Trajectory]:
    """The expert's episodes to imitate on `config.demonstrations` seeds, played by all ranks together.

    Raises:
        UserError: there is no expert, it never succeeds, or there are no legal actions for `config.mistakes`.
    """
    world = world or World()
    first = DEMONSTRATION_SEEDS + config.seed * config.demonstrations
    seeds = world.shard(range(first, first + config.demonstrations))
    shares = world.gather(demonstrate(env, dialogues, seeds, max_turns=max_turns, mistakes=config.mistakes))
    played = [trajectory for share, _ in shares for trajectory in share]
    if not played:
        failures = "".join(f"; environment failures: {count} x {kind}" for _, f in shares for kind, count in f.items())
        raise UserError(
            f"the expert of {env.id!r} solved none of {config.demonstrations} episodes within {max_turns} turns; "
            f"check its expert(), or raise env.max_turns{failures}"
        )
    return sorted(played, key=lambda t: t.seed)


def teacher_demonstrations(
    teacher: str, student: LanguageModel, env: EnvSpec, config: ImitationConfig, *, max_turns: int, max_new_tokens: int
) -> list[Trajectory]:
    """A teacher model's successful episodes, marked as written by it.

    Raises:
        UserError: the two models' tokens differ, or the teacher never succeeds.
    """
    lm = load_model(teacher, device=student.device)
    check_same_tokens(
        student.tokenizer, lm.tokenizer, student_vocab_size=student.vocab_size, teacher_vocab_size=lm.vocab_size
    )
    sampling = Sampling(max_new_tokens, frozenset(end_ids(lm.tokenizer)), seed=config.seed)
    collector = Collector(env, local_engine(lm), lm.tokenizer, sampling, Limits(max_turns))
    first = DEMONSTRATION_SEEDS + config.seed * config.demonstrations
    played = collector.collect([Episode(first + i, first + i) for i in range(config.demonstrations)])
    won = [trajectory for trajectory in played if trajectory.success]
    if not won:
        raise UserError(
            f"{teacher} solved none of {config.demonstrations} episodes of {env.id!r} within {max_turns} turns; "
            "there is nothing to imitate"
        )
    for trajectory in won:
        for turn in trajectory.turns:
            turn.author = "teacher"
    return won


def prepare_model(
    config: ModelConfig,
    env: EnvSpec,
    *,
    learner: LearnerConfig,
    max_turns: int,
    world: World | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> tuple[LanguageModel, bool]:
    """The model a run starts from, and whether it came from the cache.

    Without `imitation` this is the model itself. With it, it is that model after imitating the environment's expert,
    made once and kept under a name that hashes everything it depends on: settings, base weights, and the environment's
    source.
    """
    world = world or World()
    device = pick_device(learner.device)
    if config.imitation is None:
        return load_model(
            config.model, device=device, trust_remote_code=config.trust_remote_code, processes=world.size
        ), False
    made = (cache or cache_directory()) / _cache_key(config, env, learner, max_turns, world.size)
    if all(world.gather(_is_made(made))):
        return load_model(
            str(made), device=device, trust_remote_code=config.trust_remote_code, processes=world.size
        ), True
    lm = load_model(config.model, device=device, trust_remote_code=config.trust_remote_code, processes=world.size)
    demonstrations = gather_demonstrations(
        env, Dialogues(lm.tokenizer), config.imitation, max_turns=max_turns, world=world
    )
    imitate(lm, demonstrations, config.imitation, learner=learner, world=world, progress=progress)
    if world.rank == 0:
        save_atomically(lm, made)
    world.gather(None)  # nobody goes on before the model is there
    return lm, False


def is_prepared(config: ModelConfig, env: EnvSpec, *, learner: LearnerConfig, max_turns: int) -> bool:
    """Whether `prepare_model` in one process would only have to load."""
    return config.imitation is None or _is_made(cache_directory() / _cache_key(config, env, learner, max_turns, 1))


def _is_made(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def save_atomically(lm: LanguageModel, directory: Path) -> None:
    """Write a model so that `directory` never exists half-written."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    half = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    lm.save(half)
    shutil.rmtree(directory, ignore_errors=True)
    half.rename(directory)


def _cache_key(config: ModelConfig, env: EnvSpec, learner: LearnerConfig, max_turns: int, ranks: int) -> str:
    kept = ("weight_decay", "betas", "grad_clip", "dtype")
    parts = {
        "version": __version__,
        "base": content_hash(config.model),
        "imitation": config.imitation.model_dump() if config.imitation else None,
        "env": [env.id, env.kwargs, max_turns, source_hash(env)],
        "learner": {name: getattr(learner, name) for name in kept},
        "ranks": ranks,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
