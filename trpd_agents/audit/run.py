"""The audit of a recipe: is the teacher right where the student goes, and would a mask have known?

The student plays, the teacher scores and is asked what it would have done, and the environment's expert says what was
right. Nothing is trained but the two models' starts, which come from the cache where an earlier run made them.

Invariant: everything that cannot work is refused before a model loads; equal recipes and seeds give equal figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trpd_agents.audit.masks import Judgement, judge, mask, mean
from trpd_agents.audit.signals import turn_signals
from trpd_agents.audit.truth import Turns, label_turns
from trpd_agents.batching import pick_token_budget
from trpd_agents.config import LocalTeacherConfig, ModelConfig, RunConfig
from trpd_agents.credit import PRESETS, CreditConfig
from trpd_agents.dialogue import end_ids
from trpd_agents.distributed import World
from trpd_agents.errors import RunError, UserError
from trpd_agents.evaluation import turn_limit
from trpd_agents.evaluation.evaluate import EVALUATION_STREAM
from trpd_agents.evaluation.roc import Auroc, auroc_over_episodes, draw_episodes
from trpd_agents.models import LanguageModel, read_outline
from trpd_agents.preparation import check_models
from trpd_agents.progress import Progress
from trpd_agents.rollout import Collector, Episode, Limits, Sampling
from trpd_agents.rollout.local_engine import local_engine
from trpd_agents.starts import make_start
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv import EnvSpec, check_environment, make
from trpd_agents.trajectory import Trajectory

METHODS = ("trajectory", "hysteresis", "stride", "tropd", "prune-opd", "sod")
"""Presets that are audited if nothing else is asked for."""

OWN = "recipe"  # what the recipe's own method is called


@dataclass(frozen=True)
class Audit:
    """What was found. `by_turn` has per turn index: `episodes` that have it, the share of these `on_track`, and of the
    turns on track the shares at which the teacher's preferred action and the student's are optimal, and the mean `tv`.
    """

    config: RunConfig
    first_seed: int
    success_rate: float
    failed: int  # episodes that the environment failed in; they are in no figure
    turns: Turns
    signals: dict[str, np.ndarray]  # float64 [n]
    predicts_wrong: dict[str, Auroc]  # by signal, over the turns on track: is the teacher wrong?
    predicts_bad: dict[str, Auroc]  # by signal, over all turns: is it wrong, or the task lost?
    methods: dict[str, Judgement]
    by_turn: list[dict[str, float]]

    @property
    def episodes(self) -> int:
        return int(self.turns.episode.max(initial=-1)) + 1


def audit(
    config: RunConfig,
    episodes: int = 128,
    *,
    first_seed: int | None = None,
    student: str | None = None,
    methods: Mapping[str, CreditConfig] | None = None,
    quiet: bool = False,
) -> Audit:
    """Audit the teacher of a recipe on what its student plays.

    Args:
        episodes: how many the student plays, at temperature 1.
        first_seed: of the environment; the others follow it. None for the recipe's held-out seeds.
        student: a model in place of the recipe's student, as it is: a directory, hub id or `builtin:NAME`.
        methods: what to audit beside the recipe's own method, by name; None for the presets in `METHODS`.

    Raises:
        UserError: the teacher is the truth itself, the environment has no expert, or anything that `trpd train` would
            refuse; all before a model loads.
        RunError: the environment failed in every episode, or is not deterministic under its seed.
    """
    if student is not None:
        config = config.model_copy(update={"student": ModelConfig(model=student)})
    asked = {name: PRESETS[name].config for name in METHODS} if methods is None else dict(methods)
    asked = {OWN: config.credit.method} | asked
    env = EnvSpec(config.env.id, config.env.kwargs)
    _check(config, env, asked)
    first = config.evaluation.seed if first_seed is None else first_seed
    progress = Progress(quiet)
    max_turns = turn_limit(env, config.env.max_turns)
    assert isinstance(config.teacher, LocalTeacherConfig)
    teacher_lm = make_start("teacher", config.teacher, config, env, max_turns, World(), progress)
    student_lm = make_start("student", config.student, config, env, max_turns, World(), progress)

    played, failed = _play(student_lm, config, env, episodes, first, max_turns, progress)
    top_k = max((m.forward_kl.top_k for m in asked.values() if m.forward_kl is not None), default=0)
    budget = pick_token_budget(config.learner.token_budget, teacher_lm.device)
    teacher = LocalTeacher(teacher_lm, top_k=top_k, entropy=True, token_budget=budget)
    progress.say("teacher: scores every token")
    for trajectory, scores in zip(played, teacher.score(played), strict=True):
        trajectory.scores = scores
    total = sum(len(t.turns) for t in played)
    with progress.phase("teacher: asked at every turn", total) as shown:
        turns = label_turns(
            played,
            teacher.engine,
            teacher_lm.tokenizer,
            max_new_tokens=config.rollout.max_new_tokens,
            end_ids=frozenset(end_ids(teacher_lm.tokenizer)),
            token_budget=budget,
            on_done=shown.update,
        )
    found = turn_signals(played)
    draws = draw_episodes(len(played), config.seed)
    with progress.phase("compare with the truth", len(asked)) as shown:
        judged = {}
        for name, method in asked.items():
            judged[name] = judge(mask(method, played, config.seed), turns, draws)
            shown.update(len(judged))
    known = turns.on_track
    return Audit(
        config=config,
        first_seed=first,
        success_rate=float(np.mean([bool(t.success) for t in played])),
        failed=failed,
        turns=turns,
        signals=found,
        predicts_wrong={
            name: auroc_over_episodes(values[known], turns.wrong[known], turns.episode[known], draws)
            for name, values in found.items()
        },
        predicts_bad={
            name: auroc_over_episodes(values, ~turns.teacher_right, turns.episode, draws)
            for name, values in found.items()
        },
        methods=judged,
        by_turn=by_turn(turns, found["tv"]),
    )


def by_turn(turns: Turns, tv: np.ndarray) -> list[dict[str, float]]:
    """See `Audit`; NaN where there is nothing to average."""
    rows = []
    for k in range(int(turns.turn.max(initial=-1)) + 1):
        here = turns.turn == k
        known = here & turns.on_track
        rows.append(
            {
                "episodes": float(here.sum()),
                "on_track": mean(turns.on_track[here]),
                "teacher_right": mean(turns.teacher_right[known]),
                "student_right": mean(turns.student_right[known]),
                "tv": mean(tv[here & ~np.isnan(tv)]),
            }
        )
    return rows


def _check(config: RunConfig, env: EnvSpec, methods: Mapping[str, CreditConfig]) -> None:
    """Refuse what cannot be audited; no weights are read."""
    if not isinstance(config.teacher, LocalTeacherConfig):
        raise UserError(
            f"teacher.kind: found {config.teacher.kind!r}, wanted 'local': the oracle is the truth that a teacher is "
            "compared with, so it is always right; audit a recipe whose teacher is a model"
        )
    made = make(env)
    try:
        if not made.has_expert:
            raise UserError(
                f"environment {env.id!r} has no expert(), and without one nobody knows what would have been right; "
                "give its class a method expert() -> str | None that returns the next action"
            )
    finally:
        made.close()
    check_models(config)
    check_environment(env, max_turns=config.env.max_turns)
    models = (config.student, config.teacher)
    vocabulary = min(read_outline(model.model, model.trust_remote_code).vocab_size for model in models)
    for name, method in methods.items():
        if method.forward_kl is not None and method.forward_kl.top_k > vocabulary:
            raise UserError(
                f"method '{name}': credit.outlier.top_k={method.forward_kl.top_k} is more than the models' vocabulary "
                f"of {vocabulary} tokens; lower it"
            )


def _play(
    lm: LanguageModel,
    config: RunConfig,
    env: EnvSpec,
    episodes: int,
    first_seed: int,
    max_turns: int,
    progress: Progress,
) -> tuple[list[Trajectory], int]:
    """The student's episodes with their outcomes, and how many the environment failed in.

    Those on the recipe's held-out seeds are the very episodes that it is evaluated on.
    """
    rollout = config.rollout
    sampling = Sampling(rollout.max_new_tokens, frozenset(end_ids(lm.tokenizer)), seed=EVALUATION_STREAM)
    limits = Limits(max_turns, rollout.max_tokens, rollout.episode_seconds)
    collector = Collector(env, local_engine(lm), lm.tokenizer, sampling, limits)
    with progress.phase("student: plays", episodes) as shown:
        finished = itertools.count(1)
        plan = [Episode(first_seed + i, first_seed + i) for i in range(episodes)]
        played = collector.collect(plan, on_finish=lambda _: shown.update(next(finished)))
    kept = [t for t in played if t.error is None]
    if not kept:
        error = played[0].error or {"kind": "unknown", "message": ""}
        raise RunError(f"the environment failed in every episode: {error['kind']}: {error['message']}")
    if not any(t.turns for t in kept):
        raise RunError(
            f"no turn was played: rollout.max_tokens={rollout.max_tokens} leaves no room for an action after the first "
            "observation; raise it"
        )
    return kept, len(played) - len(kept)
