"""A run's stored episodes with what training made of them: every token's weights and reason, every turn's in words.

Nothing of this is stored with a run: credit assignment is a pure function of what is, so it is computed again, with the
run's own method, step and seed, a few episodes at a time.

Invariant: episodes come in the order of steps and of the file, each once; memory is that of one batch, however long the
run. What cannot be read or credited is named in `RunFiles.missing`, and the episodes are shown without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trpd_agents.credit import DESCRIPTIONS, Credit, Reason, assign_credit
from trpd_agents.credit.assign import INVALID_LOG_RATIO
from trpd_agents.credit.config import CreditConfig, Rule, Thresholds
from trpd_agents.credit.rules import fixed
from trpd_agents.errors import UserError
from trpd_agents.report.explain import TurnFigures, explain_filter, explain_turns
from trpd_agents.report.files import RunFiles
from trpd_agents.storage import stream_trajectories
from trpd_agents.trajectory import Trajectory, Turn, pad_scored

KEPT, RAISED, LOWERED, MASKED, GUIDED, UNKNOWN = "kept", "raised", "lowered", "masked", "guided", "unknown"
"""What became of a turn: learned from at full weight, at more, at less; not at all; the teacher wrote it; not known."""

_AT_ONCE = 64  # trajectories
_ENTRIES_AT_ONCE = 1 << 22  # of the padded top tokens


@dataclass(frozen=True)
class Tokens:
    """The tokens of an episode's actions, each `[n]`, in order; without credit the weights and reasons are None."""

    ids: np.ndarray  # int
    turn: np.ndarray  # int
    ls: np.ndarray  # nats, the student's; NaN where the teacher wrote
    lt: np.ndarray  # nats, the teacher's; NaN where it did not score
    policy_weight: np.ndarray | None
    forward_kl_weight: np.ndarray | None
    imitation_weight: np.ndarray | None
    reason: np.ndarray | None  # codes of `Reason`
    top_ids: np.ndarray | None = None  # [n, k]
    top_lt: np.ndarray | None = None  # [n, k] nats
    entropy: np.ndarray | None = None  # nats, of the teacher's whole distribution


@dataclass(frozen=True)
class TurnSeen:
    """One turn, `played`, with what training made of it. `span` is its part of the episode's `Tokens`."""

    played: Turn
    span: slice
    repeat: bool
    state: str
    why: str
    weight: float | None  # that the trajectory rule gave
    divergence: float | None  # None where the turn does not count
    reach: float | None  # nats: log ratio of the history before it


@dataclass(frozen=True)
class EpisodeSeen:
    """`kept_share` is the share of the student's tokens with weight in either KL, as in the metrics; None without any.

    `rule` is the trajectory rule with thresholds as values, as it was applied here.
    """

    step: int
    trajectory: Trajectory
    turns: list[TurnSeen]
    tokens: Tokens
    kept_share: float | None
    rule: Rule | None


def stream_episodes(
    run: RunFiles, steps: Collection[int] | None = None, on_file: Callable[[Path], None] = lambda _: None
) -> Iterator[EpisodeSeen]:
    """The stored episodes of the run, or of the updates that `steps` names; `on_file` hears of each file when done."""
    crediting = _Crediting(run)
    for step, file in run.steps.items():
        if steps is not None and step not in steps and not crediting.needs_every_step:
            continue
        try:
            for batch in _batches(stream_trajectories(file, _AT_ONCE)):
                seen = crediting(step, batch)
                if steps is None or step in steps:
                    yield from seen
        except UserError as error:
            run.miss(str(error))
        crediting.end_step()
        on_file(file)


def _batches(trajectories: Iterator[Trajectory]) -> Iterator[list[Trajectory]]:
    batch: list[Trajectory] = []
    longest = width = 0
    for trajectory in trajectories:
        scores = trajectory.scores
        longest = max(longest, len(trajectory.tokens))
        width = max(width, 0 if scores is None or scores.top_ids is None else scores.top_ids.shape[1])
        batch.append(trajectory)
        if len(batch) == _AT_ONCE or len(batch) * longest * (width + 1) > _ENTRIES_AT_ONCE:
            yield batch
            batch, longest, width = [], 0, 0
    if batch:
        yield batch


class _Crediting:
    """The run's own method over its steps, with the divergences that thresholds by quantile look back at."""

    def __init__(self, run: RunFiles):
        self._run = run
        self._config = run.config
        self._recent = torch.zeros(0)
        self._in_step: list[torch.Tensor] = []
        rule = run.config.credit.method.rule if run.config is not None else None
        self.needs_every_step = isinstance(rule, Thresholds) and rule.thresholds == "quantile"
        self._window = rule.window if isinstance(rule, Thresholds) else 0
        if self.needs_every_step:
            run.miss("quantile thresholds are taken from the stored updates alone; training took them from every one")
        if run.config is not None and run.config.learner.correction.kind != "none":
            run.miss("learner.correction changed the weights once more in training; they are shown without that")

    def __call__(self, step: int, trajectories: Sequence[Trajectory]) -> list[EpisodeSeen]:
        whole = [t for t in trajectories if t.error is None]  # what training credited
        credit = self._credit(step, whole)
        rows = {id(t): b for b, t in enumerate(whole)} if credit is not None else {}
        method = self._config.credit.method if self._config is not None else None
        rule = fixed(method.rule, self._recent) if method is not None and credit is not None else None
        arrays = _arrays(credit) if credit is not None else {}
        return [
            _seen(step, t, {name: values[rows[id(t)]] for name, values in arrays.items()} if id(t) in rows else None,
                  method, rule)
            for t in trajectories
        ]  # fmt: skip

    def _credit(self, step: int, whole: Sequence[Trajectory]) -> Credit | None:
        if self._config is None or not whole:
            return None
        try:
            scored = pad_scored(whole)
            credit = assign_credit(scored, self._config.credit.method, step - 1, self._config.seed, self._recent)
        except ValueError as error:
            self._run.miss(f"step {step}: its weights and reasons cannot be computed: {error}")
            return None
        if self.needs_every_step:
            self._in_step.append(credit.turn_divergence[credit.turn_counts])
        return credit

    def end_step(self) -> None:
        """From the next step on the thresholds may know of this one."""
        seen = torch.cat([self._recent, *self._in_step])
        self._recent = seen[max(len(seen) - self._window, 0) :]
        self._in_step = []


_PER_TOKEN = ("policy_weight", "forward_kl_weight", "imitation_weight", "reason")
_PER_TURN = ("turn_weight", "turn_divergence", "turn_counts")


def _arrays(credit: Credit) -> dict[str, np.ndarray]:
    return {name: getattr(credit, name).numpy() for name in (*_PER_TOKEN, *_PER_TURN)}


def _seen(
    step: int, t: Trajectory, row: dict[str, np.ndarray] | None, method: CreditConfig | None, rule: Rule | None
) -> EpisodeSeen:
    index = t.turn_index()
    at = np.flatnonzero(index >= 0)
    lt = np.full(len(t.tokens), np.nan, dtype=np.float32)
    top_ids = top_lt = entropy = None
    if t.scores is not None:
        lt[t.scores.positions] = t.scores.lt
        if np.array_equal(t.scores.positions, at):
            top_ids, top_lt, entropy = t.scores.top_ids, t.scores.top_lt, t.scores.entropy
    of_tokens = {name: None if row is None else row[name][at] for name in _PER_TOKEN}
    tokens = Tokens(
        t.tokens[at], index[at], t.logprobs[at], lt[at], **of_tokens, top_ids=top_ids, top_lt=top_lt, entropy=entropy
    )
    kept = None
    if row is not None and t.scores is not None:
        own = t.authored("student")
        kept = (
            float(((row["policy_weight"] + row["forward_kl_weight"])[: len(own)][own] > 0).mean())
            if own.any()
            else None
        )
    return EpisodeSeen(step, t, _turns(t, tokens, row, method, rule), tokens, kept, rule)


def _turns(
    t: Trajectory, tokens: Tokens, row: dict[str, np.ndarray] | None, method: CreditConfig | None, rule: Rule | None
) -> list[TurnSeen]:
    K = len(t.turns)
    starts = np.searchsorted(tokens.turn, np.arange(K + 1)).tolist()
    repeats = t.repeats().tolist()
    if row is None or method is None or rule is None or t.scores is None:
        why = _no_credit(t, row)
        return [
            TurnSeen(turn, slice(starts[k], starts[k + 1]), repeats[k], GUIDED if turn.author == "teacher" else UNKNOWN,
                     why, None, None, None)
            for k, turn in enumerate(t.turns)
        ]  # fmt: skip
    usable = np.isfinite(tokens.ls)
    d = np.where(np.isfinite(tokens.lt), tokens.lt - np.where(usable, tokens.ls, 0), INVALID_LOG_RATIO)
    figures = TurnFigures(
        divergence=row["turn_divergence"][:K],
        counts=row["turn_counts"][:K],
        ok=np.array([turn.ok for turn in t.turns], dtype=bool),
        repeat=np.array(repeats, dtype=bool),
        log_ratio=np.bincount(tokens.turn[usable], weights=d[usable], minlength=K)[:K],
    )
    filtered = tokens.reason is not None and bool((tokens.reason == Reason.FILTERED).any())
    weights = row["turn_weight"][:K].tolist()
    of_rule = [""] * K if filtered else explain_turns(rule, figures, weights)
    whole = explain_filter(method, figures, t.success) if filtered else ""
    reach = figures.reach(getattr(rule, "forget", 1.0)).tolist()
    divergence = [float(v) if c else None for v, c in zip(figures.divergence, figures.counts, strict=True)]
    seen = []
    for k, (turn, (state, of_tokens)) in enumerate(zip(t.turns, _states(t, tokens, starts), strict=True)):
        why = whole or of_rule[k] or of_tokens  # what holds for the whole turn says it all
        span = slice(starts[k], starts[k + 1])
        seen.append(TurnSeen(turn, span, repeats[k], state, why, weights[k], divergence[k], reach[k]))
    return seen


def _no_credit(t: Trajectory, row: dict[str, np.ndarray] | None) -> str:
    if t.error is not None:
        return "the environment failed in this episode: nothing was learned from it"
    if row is not None and t.scores is None:
        return DESCRIPTIONS[Reason.TEACHER_UNAVAILABLE]
    return "its weights are not known"


def _states(t: Trajectory, tokens: Tokens, starts: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What became of each turn, by its tokens' weights, and the reasons of those that do not have full weight."""
    assert tokens.policy_weight is not None and tokens.forward_kl_weight is not None
    assert tokens.imitation_weight is not None and tokens.reason is not None
    weight = np.maximum(tokens.policy_weight, tokens.forward_kl_weight).tolist()
    imitated, reason = tokens.imitation_weight.tolist(), tokens.reason.tolist()
    for k, turn in enumerate(t.turns):
        of_turn = slice(starts[k], starts[k + 1])
        if turn.author == "teacher":
            yield GUIDED, "played by the teacher" + (", and imitated" if any(imitated[of_turn]) else "")
        elif starts[k] == starts[k + 1]:
            yield UNKNOWN, "no token was sampled"
        else:
            low, high = min(weight[of_turn]), max(weight[of_turn])
            state = MASKED if high == 0 else RAISED if high > 1 else LOWERED if low < 1 else KEPT
            yield state, _in_words(reason[of_turn])


def _in_words(reasons: Sequence[int]) -> str:
    counted = Counter(code for code in reasons if code != Reason.KEPT)
    return "; ".join(
        DESCRIPTIONS[Reason(code)]
        if n == len(reasons)
        else f"{n} of {len(reasons)} tokens: {DESCRIPTIONS[Reason(code)]}"
        for code, n in sorted(counted.items())
    )
