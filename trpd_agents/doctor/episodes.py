"""What whole episodes of student and teacher say: who is better, whether divergence tells failure, and what is cut off.

Both play the same held-out seeds, as evaluations do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from trpd_agents.credit import assign_credit
from trpd_agents.distributed import World
from trpd_agents.doctor.finding import Check, Finding, ok, skipped, warning
from trpd_agents.doctor.subject import Subject
from trpd_agents.errors import RunError
from trpd_agents.evaluation import Evaluation, compare, evaluate
from trpd_agents.evaluation.roc import Auroc, auroc_over_episodes, draw_episodes
from trpd_agents.preparation import Ready, evaluate_teacher
from trpd_agents.progress import Progress
from trpd_agents.rollout.seats import OTHER_SEAT
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Outcome, Stop, Trajectory, pad_scored

_CUT = 0.2  # share of actions or episodes that are cut off, above which it is worth a word


@dataclass(frozen=True)
class Played:
    """Episodes of the student's, and both evaluations on the same seeds; the teacher's is None if it cannot play.

    `seconds` are what the student's took.
    """

    subject: Subject
    episodes: list[Trajectory]
    student: Evaluation
    teacher: Evaluation | None
    seconds: float


def play_both(subject: Subject, ready: Ready, episodes: int, progress: Progress) -> Played:
    """Raises RunError if the environment fails in every episode."""
    config = subject.config
    kept: list[Trajectory] = []
    started = time.perf_counter()
    with progress.phase("student: plays", episodes) as shown:

        def on_finish(trajectory: Trajectory) -> None:
            kept.append(trajectory)
            shown.update(len(kept))

        student = evaluate(
            ready.student,
            EnvSpec(config.env.id, config.env.kwargs),
            episodes,
            seed=config.evaluation.seed,
            max_turns=ready.max_turns,
            max_new_tokens=config.rollout.max_new_tokens,
            max_tokens=config.rollout.max_tokens,
            episode_seconds=config.rollout.episode_seconds,
            on_finish=on_finish,
            engine=ready.engine,
            pool=ready.pool,
        )
    seconds = time.perf_counter() - started
    if not student.episodes:
        raise RunError(f"the environment failed in every episode: {student.errors}")
    teacher = None
    if subject.teacher.engine is not None:
        shorter = config.evaluation.model_copy(update={"episodes": episodes})
        config = config.model_copy(update={"evaluation": shorter})
        teacher = evaluate_teacher(World(), config, ready, progress, Stopwatch(), "teacher: plays")
    played = [t for t in kept if t.error is None and t.id < OTHER_SEAT]
    return Played(subject, sorted(played, key=lambda t: t.seed), student, teacher, seconds)


def _better(played: Played) -> Finding:
    own = played.student.success_rate
    if played.teacher is None:
        return skipped(f"the student succeeds in {own.mean:.2f}; the teacher cannot play")
    theirs = played.teacher.success_rate
    change = compare(played.student.outcomes, played.teacher.outcomes)
    found = (
        f"on {played.student.episodes} seeds student {own.mean:.2f}, teacher {theirs.mean:.2f}, difference "
        f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    )
    if theirs.mean == 0:
        return warning(found, "The teacher never succeeds: train it first, make the task easier, or check success.")
    if change.low > 0:
        return ok(found)
    if change.high <= 0 or change.mean <= 0:
        return warning(found, "Nothing is to be gained from a teacher that is no better: take a stronger one.")
    return warning(found, "Not yet told apart: more --episodes, or a teacher that is clearly better.")


def _prediction(played: Played) -> Finding:
    """Information, whatever comes out: where it is near 0.5, masks by divergence have nothing to go by."""
    found = predicts(played)
    if found.undefined:
        rate = played.student.success_rate.mean
        return skipped(f"the student succeeds in {rate:.2f} of the episodes, so there is nothing to tell apart")
    value, low, high = found.estimate
    said = "more" if value > 0.5 else "less"
    ends = "too few for an interval" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
    return ok(
        f"a failed episode has the {said} divergence with probability {max(value, 1 - value):.2f} "
        f"(AUROC {value:.2f} {ends}; {found.bad} of {found.turns} failed)"
    )


def predicts(played: Played) -> Auroc:
    """How well an episode's mean turn divergence, by the run's own statistic, tells that it failed."""
    trajectories = [t for t in played.episodes if t.turns]
    for trajectory, scores in zip(trajectories, played.subject.teacher.score(trajectories), strict=True):
        trajectory.scores = scores
    figure = np.zeros(0)
    if trajectories:
        credit = assign_credit(pad_scored(trajectories), played.subject.config.credit.method)
        counted = credit.turn_counts.sum(1)
        mean = (credit.turn_divergence * credit.turn_counts).sum(1) / counted
        figure = mean.double().numpy()  # NaN where no turn counts
    failed = np.array([not t.success for t in trajectories], dtype=bool)
    n = len(trajectories)
    return auroc_over_episodes(figure, failed, np.arange(n), draw_episodes(max(n, 1)))


def _room(played: Played) -> Finding:
    rollout = played.subject.config.rollout
    turns = [turn for t in played.episodes for turn in t.turns]
    full = sum(t.outcome is Outcome.MAX_TOKENS for t in played.episodes) / max(len(played.episodes), 1)
    cut = sum(turn.stop is Stop.LENGTH for turn in turns) / max(len(turns), 1)
    longest = max((len(t.tokens) for t in played.episodes), default=0)
    found = (
        f"longest conversation {longest} of {rollout.max_tokens} tokens; {full:.0%} of episodes end with it full, "
        f"{cut:.0%} of actions are cut off at {rollout.max_new_tokens} tokens"
    )
    fixes = []
    if full > _CUT:
        fixes.append("raise rollout.max_tokens, or lower env.max_turns")
    if cut > _CUT:
        fixes.append("raise rollout.max_new_tokens, or start from a student that ends its turns")
    if fixes:
        return warning(found, f"What is cut off counts for little or nothing: {'; '.join(fixes)}.")
    return ok(found)


BETTER = Check("teacher", "better than the student on the same seeds", _better)
PREDICTION = Check("divergence", "larger in episodes that fail (information)", _prediction)
ROOM = Check("room", "conversations and actions that fit", _room)
