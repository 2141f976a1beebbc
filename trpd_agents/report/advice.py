"""What looks wrong in a run, in words, and what to change.

Invariant: a warning rests on figures that it names; where those are missing there is none. Early and late are the first
and the last tenth of the updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trpd_agents.evaluation.statistics import Estimate
from trpd_agents.report.figures import Sums, difference
from trpd_agents.report.files import RunFiles

LITTLE_KEPT = 0.05
NEARLY_ALL_KEPT = 0.98
GROWTH = 2.0  # late over early tokens per action
CUT_OFF = 0.2
COLLAPSE = 0.2  # late over early entropy
RISE = 0.05  # in success, that excuses a fall in entropy
END_GAP = -3.0  # nats, mean log ratio at end tokens
FAILURES = 0.05
REFUSED = 0.5
SAMPLER_GAP = 0.01  # nats


@dataclass(frozen=True)
class Warned:
    """`what` with its figures, and what to `change`."""

    what: str
    change: str


def advise(run: RunFiles, sums: Sums) -> list[Warned]:
    found = [*_kept(run), *_length(run), *_entropy(run, sums), *_end_token(sums), *_teacher(run), *_faults(run)]
    return [warned for warned in found if warned is not None]


def _kept(run: RunFiles) -> list[Warned | None]:
    late = _mean(_late(run.metrics), "kept_share")
    forward = _mean(_late(run.metrics), "forward_kl_share") or 0.0
    masks = (
        run.config is None
        or run.config.credit.method.rule.kind != "none"
        or run.config.credit.method.gate.kind != "off"
    )
    if late is None:
        return []
    if late + forward < LITTLE_KEPT:
        return [
            Warned(
                f"Almost nothing is learned from: of the student's tokens {late:.1%} are kept at the end.",
                "Loosen the trust region (a larger credit.rule.budget or credit.rule.enter, more credit.gate.slack), "
                "let the teacher play first turns (credit.guidance), or start from a student that is closer to the "
                "teacher (student.imitation). `trpd recredit RUN credit.rule...` shows in seconds what would be kept.",
            )
        ]
    if late > NEARLY_ALL_KEPT and masks and (_mean(_early(run.metrics), "kept_share") or 0) > NEARLY_ALL_KEPT:
        return [
            Warned(
                f"The trust region does nothing: {late:.1%} of the student's tokens are kept, early and late.",
                "Tighten it (a smaller credit.rule.budget or credit.rule.enter), or take credit.preset=opd, which is "
                "the same without it. Look at the divergence by turn to see where a line would cut.",
            )
        ]
    return []


def _length(run: RunFiles) -> list[Warned | None]:
    early, late = (_tokens_per_action(rows) for rows in (_early(run.metrics), _late(run.metrics)))
    cut = _mean(_late(run.metrics), "cut_off_share")
    return [
        Warned(
            f"Actions grow longer: {early:.1f} tokens each at first, {late:.1f} at the end.",
            "Read late episodes for repetition; check that the end token of the student's template is one that the "
            "teacher uses; lower rollout.max_new_tokens; lower learner.lr.",
        )
        if early and late and late > GROWTH * early
        else None,
        Warned(
            f"Of the turns at the end {cut:.0%} are cut off at the token limit, so the environment sees half of them.",
            "Raise rollout.max_new_tokens, or look whether the student has stopped writing its end token.",
        )
        if cut is not None and cut > CUT_OFF
        else None,
    ]


def _entropy(run: RunFiles, sums: Sums) -> list[Warned | None]:
    values = [value for value in sums.entropy().values() if value is not None]
    before, after = _mean(_early(run.metrics), "success"), _mean(_late(run.metrics), "success")
    if len(values) < 2 or before is None or after is None:
        return []
    if values[-1] < COLLAPSE * values[0] and after < before + RISE:
        return [
            Warned(
                f"The student's entropy fell from {values[0]:.3f} to {values[-1]:.3f} nats per token and success did "
                f"not rise ({before:.2f} to {after:.2f}): it may have settled on one answer.",
                "Lower learner.lr, train for fewer updates, or take an estimator with less pull towards a single mode "
                "(credit.estimator=full, or forward KL on rejected tokens with credit.outlier=forward_kl).",
            )
        ]
    return []


def _end_token(sums: Sums) -> list[Warned | None]:
    totals = {
        name: [sum(getattr(s, name)[i] for s in sums.by_step.values()) for i in (0, 1)] for name in ("end", "inner")
    }
    if not totals["end"][1] or not totals["inner"][1]:
        return []
    end, inner = (totals[name][0] / totals[name][1] for name in ("end", "inner"))
    if end < END_GAP and end < 2 * inner:
        return [
            Warned(
                f"The teacher does not expect turns to end where they do: its log ratio is {end:.2f} nats at end "
                f"tokens, {inner:.2f} elsewhere.",
                "Student and teacher probably use different end tokens or chat templates: compare their "
                "tokenizer_config.json and generation_config.json, and take a pair with the same template.",
            )
        ]
    return []


def _teacher(run: RunFiles) -> list[Warned | None]:
    lead = difference(run, "before", "teacher")
    gain = difference(run, "before", "after")
    return [
        Warned(
            f"The teacher is not shown to be better than the student was: {lead.mean:+.3f} "
            f"[{lead.low:+.3f}, {lead.high:+.3f}] in success, on the same seeds.",
            "Take a better teacher, or a harder task; or evaluate more episodes (evaluation.episodes), if the interval "
            "is merely wide.",
        )
        if lead is not None and lead.low <= 0
        else None,
        _outcome(gain),
    ]


def _outcome(gain: Estimate | None) -> Warned | None:
    if gain is None or gain.low > 0:
        return None
    figures = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] in success, on the same seeds"
    if gain.high < 0:
        return Warned(
            f"Training made the student worse: {figures}.",
            "Lower learner.lr; look for masks that hit the wrong turns with `trpd audit`; check the teacher.",
        )
    return Warned(
        f"Training is not shown to have helped: {figures}.",
        "Train for longer (training.steps), or evaluate more episodes (evaluation.episodes), if the interval is wide.",
    )


def _faults(run: RunFiles) -> list[Warned | None]:
    rows = run.metrics
    episodes, failed = (sum(row.get(name) or 0 for row in rows) for name in ("episodes", "environment_failures"))
    refused = _mean(_late(rows), "refused_share")
    invalid = sum(row.get("teacher_logprob_invalid") or 0 for row in rows)
    unscored = sum(row.get("teacher_unavailable") or 0 for row in rows)
    gap = max((row.get("sampler_gap") or 0.0 for row in rows), default=0.0)
    return [
        Warned(
            f"The environment failed in {failed:.0f} of {failed + episodes:.0f} episodes; none was learned from.",
            "Filter the episodes by kind of error and read the messages; they are faults of the environment.",
        )
        if failed > FAILURES * (episodes + failed)
        else None,
        Warned(
            f"At the end {refused:.0%} of the actions are refused by the environment.",
            "Read failed episodes: is the format of a call what the environment's instructions say it is?",
        )
        if refused is not None and refused > REFUSED
        else None,
        Warned(
            f"The teacher's log-probability was not finite at {invalid:.0f} tokens.",
            "Look at these tokens; a teacher that rules tokens out needs credit.estimator=full or forward KL.",
        )
        if invalid
        else None,
        Warned(f"The teacher did not score {unscored:.0f} episodes.", "See the teacher server's log.")
        if unscored
        else None,
        Warned(
            f"Log-probabilities as sampled and as trained on differ by up to {gap:.3f} nats per token.",
            "Sample in the precision that is trained in (learner.dtype), or set learner.correction.",
        )
        if gap > SAMPLER_GAP
        else None,
    ]


def _early(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return rows[: max(1, len(rows) // 10)]


def _late(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return rows[-max(1, len(rows) // 10) :]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return sum(values) / len(values) if values else None


def _tokens_per_action(rows: Sequence[dict[str, Any]]) -> float | None:
    tokens = sum(row.get("action_tokens") or 0 for row in rows)
    actions = sum((row.get("turns") or 0) * (row.get("episodes") or 0) for row in rows)
    return tokens / actions if actions else None
