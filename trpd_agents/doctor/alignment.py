"""Is every score about the token at its own position, and about that token?

What a teacher says of the student's turns is held against a bare forward pass over the whole sequence, and against the
same one position earlier and later, so that scores which are one off are not only noticed but named. What the teacher
itself says greedily has to be the most likely token at its place. A teacher that is not just one model is held against
what its own engine reports while it plays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trpd_agents.doctor.finding import Check, Finding, error, ok, skipped
from trpd_agents.doctor.subject import Subject, apart, plain_logprobs
from trpd_agents.models import LanguageModel
from trpd_agents.scoring import score_tokens
from trpd_agents.teacher.of_run import teachers_of
from trpd_agents.trajectory import Scores, Trajectory

LIMIT, COARSE_LIMIT = 0.01, 0.1  # nats per token, mean: in float32, and in less or on a GPU
_FIX = "Training on it would teach noise. If you wrote the teacher or the engine, correct its positions: see Scores."
_SILENT = {"oracle", "server"}  # their engines return no log-probabilities
_COMPARED = 32  # episodes' beginnings
_TOLD_APART = 5.0  # a shift has to be so much worse than the limit for agreement to mean something


def _check(subject: Subject) -> Finding:
    sampled, limit = subject.sampled[:_COMPARED], COARSE_LIMIT if subject.coarse else LIMIT
    if not sampled:
        return skipped("no turn could be played")
    positions = [t.action_positions() for t in sampled]
    own = score_tokens(subject.student, [t.tokens for t in sampled], positions)
    if wrong := _against(subject.student, sampled, own, limit):
        return error(f"the student: {wrong}", _FIX)
    lm = subject.local
    if lm is not None:
        if wrong := _against(lm, sampled, subject.teacher.score(sampled), limit):
            return error(f"the teacher: {wrong}", _FIX)
        if wrong := _greedy(subject, lm, limit):
            return error(f"the teacher: {wrong}", _FIX)
        tokens = sum(map(len, positions))
        shift = _shifted(lm, sampled, positions)
        if shift < _TOLD_APART * limit:
            return ok(f"equal on {tokens} tokens, but a shift would hardly show: they are so much alike ({shift:.2g})")
        return ok(f"equal to a bare forward pass on {tokens} tokens; one position off would be {shift:.2g} nats away")
    return _reported(subject, limit)


def _against(lm: LanguageModel, sampled: Sequence[Trajectory], scores: Sequence[Scores], limit: float) -> str:
    """What is wrong with scores by `lm`, by a forward pass without any of the code that made them."""
    for trajectory, found in zip(sampled, scores, strict=True):
        if not np.array_equal(found.positions, trajectory.action_positions()):
            return "it scores other positions than those of the actions"
        if (np.asarray(found.lt) > 1e-3).any():
            return f"a log-probability of {float(found.lt.max()):.3g}, above 0, is none"
    plain = [plain_logprobs(lm, t.tokens) for t in sampled]
    gap = {shift: _gap(sampled, scores, plain, shift) for shift in (0, -1, 1)}
    if gap[0] <= limit:
        return ""
    best = min(gap, key=lambda shift: gap[shift])
    told = f"its scores are {gap[0]:.3g} nats per token away from a bare forward pass (at most {limit} wanted)"
    if best and gap[best] <= limit:
        return f"{told}, and fit the tokens one position {'earlier' if best < 0 else 'later'}: they are off by one"
    return told


def _gap(sampled: Sequence[Trajectory], scores: Sequence[Scores], plain: Sequence[np.ndarray], shift: int) -> float:
    parts = []
    for trajectory, found, reference in zip(sampled, scores, plain, strict=True):
        at = found.positions + shift
        inside = (at > 0) & (at < len(trajectory.tokens))
        parts.append((np.asarray(found.lt)[inside], reference[at[inside]]))
    return float(apart([one for one, _ in parts], [other for _, other in parts]).mean())


def _shifted(lm: LanguageModel, sampled: Sequence[Trajectory], positions: Sequence[np.ndarray]) -> float:
    """Nats per token between neighbours: what being one position off would have made of a perfect agreement."""
    plain = [plain_logprobs(lm, t.tokens) for t in sampled]
    pairs = [(p[at[at > 1]], p[at[at > 1] - 1]) for p, at in zip(plain, positions, strict=True)]
    return float(apart([one for one, _ in pairs], [other for _, other in pairs]).mean())


@torch.inference_mode()
def _greedy(subject: Subject, lm: LanguageModel, limit: float) -> str:
    """What is wrong if the teacher's own greedy choices are not the best that its scores know of."""
    assert subject.teacher.engine is not None
    chosen = subject.play(2, subject.teacher.engine, temperature=0.0)
    scores = subject.teacher.score(chosen)
    best = []
    for trajectory, found in zip(chosen, scores, strict=True):
        hidden = lm.hidden(torch.from_numpy(trajectory.tokens.astype(np.int64))[None].to(lm.device))[0]
        rows = hidden[torch.from_numpy(found.positions - 1).to(lm.device)]
        best.append(lm.logits(rows).float().log_softmax(-1).amax(-1).cpu().numpy())
    below = float(apart([s.lt for s in scores], best).mean()) if chosen else 0.0
    if below <= limit:
        return ""
    return f"the tokens that it chooses greedily are {below:.3g} nats less likely, by its scores, than its likeliest"


def _reported(subject: Subject, limit: float) -> Finding:
    """A teacher of several parts against its own engine: what that reports while sampling is scored again."""
    if silent := {section.kind for section in teachers_of(subject.config).values()} & _SILENT:
        kinds = ", ".join(sorted(silent))
        return skipped(f"a teacher of kind {kinds} reports nothing to compare with (a server was asked when opened)")
    if subject.teacher.engine is None:
        return skipped("the teacher cannot play, so it has nothing to be compared with")
    played = subject.play(4, subject.teacher.engine)
    scores = subject.teacher.score(played)
    reported = [t.logprobs[s.positions] for t, s in zip(played, scores, strict=True)]
    gap = float(apart([s.lt for s in scores], reported).mean()) if played else 0.0
    if gap > limit:
        return error(
            f"the teacher: its scores are {gap:.3g} nats per token away from what it reported while it played those "
            f"tokens (at most {limit} wanted)",
            _FIX,
        )
    return ok(f"scores are what the teacher reports while it plays, to {gap:.2g} nats")


ALIGNMENT = Check("alignment", "each score is that of the token at its position, given those before it", _check)
