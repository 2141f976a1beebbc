"""What happened in an episode, token-exact, and the padded tensors that credit and learner read.

Invariant: `Trajectory.tokens` holds the ids exactly as they were fed to and sampled from the model; nothing here ever
re-tokenises text. Which tokens are whose is written down as explicit spans per turn, so no consumer has to guess from
the end of a sequence (a slice like `[-n:]` is wrong for n = 0) or from the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch


class Stop(StrEnum):
    """Why the tokens of one action ended."""

    END = "end"  # the end-of-turn token was sampled
    LENGTH = "length"  # `max_new_tokens` was reached: the action is cut off


class Outcome(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"  # the environment reached a final state
    TRUNCATED = "truncated"  # the environment's own turn limit
    MAX_TURNS = "max_turns"  # our turn limit
    MAX_TOKENS = "max_tokens"  # the context is full
    TIMEOUT = "timeout"  # the episode's time is up
    ERROR = "error"  # the environment failed: see `Trajectory.error`


@dataclass
class Turn:
    """One observation and the action that answered it.

    `prompt` and `action` are half-open spans into `Trajectory.tokens`: the tokens fed before the action (template and
    observation), and the tokens that `author` produced, including the end-of-turn token when it was sampled.
    """

    prompt: tuple[int, int]
    action: tuple[int, int]
    author: str  # "student" or "teacher"
    stop: Stop
    observation: str  # what the action answered
    text: str  # the action, decoded
    reward: float = 0.0
    ok: bool = True  # did the environment accept the action
    calls: list[dict[str, Any]] = field(default_factory=list)  # tool calls parsed from the text


@dataclass
class Trajectory:
    """One episode.

    `tokens` int32 `[T]`; `logprobs` float32 `[T]`, nats, the sampling policy's log-probability of its own tokens and
    NaN everywhere else. `policy_version` counts optimiser updates of the student that sampled it. `error` is None or
    `{"kind", "message"}`; with an error, `success` is None, and neither success nor reward may enter a rate.
    `instructions` and `tools` are what the conversation began with, before the first observation; `hint` is what the
    environment said at the reset for a teacher's eyes only, and is no part of `tokens`. `draw` says whether a match
    ended without a winner; None where there is nothing to draw.
    """

    id: int
    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    tokens: np.ndarray
    logprobs: np.ndarray
    turns: list[Turn]
    outcome: Outcome
    success: bool | None
    reward: float
    final_observation: str = ""
    policy_version: int = 0
    error: dict[str, str] | None = None
    scores: Scores | None = None
    instructions: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    hint: str | None = None
    draw: bool | None = None

    def turn_index(self) -> np.ndarray:
        """int64 `[T]`: the turn whose action each token belongs to, -1 for prompt and template tokens."""
        index = np.full(len(self.tokens), -1, dtype=np.int64)
        for k, turn in enumerate(self.turns):
            index[turn.action[0] : turn.action[1]] = k
        return index

    def authored(self, author: str) -> np.ndarray:
        """bool `[T]`: tokens that `author` ("student" or "teacher") produced as part of an action."""
        mask = np.zeros(len(self.tokens), dtype=bool)
        for turn in self.turns:
            if turn.author == author:
                mask[turn.action[0] : turn.action[1]] = True
        return mask

    def repeats(self) -> np.ndarray:
        """bool `[K]`: the action has the same text as the turn before, and the environment answered both alike.

        The same text alone would not do: who walks two steps to the right repeats nothing.
        """
        answers = [*(turn.observation for turn in self.turns[1:]), self.final_observation]
        done = [(turn.text, answer) for turn, answer in zip(self.turns, answers, strict=False)]
        return np.array([k > 0 and done[k] == done[k - 1] for k in range(len(done))], dtype=bool)

    def action_positions(self) -> np.ndarray:
        """int64 `[n]`: positions of every action token, the student's and the teacher's, in order."""
        return np.flatnonzero(self.turn_index() >= 0)


@dataclass
class Scores:
    """A teacher's opinion of one trajectory, at explicit positions (never "the last n").

    `positions` int64 `[n]` into `Trajectory.tokens`; `lt` float32 `[n]`, nats, the teacher's log-probability of the
    token at that position given everything before it; `top_ids` int32 `[n, k]` and `top_lt` float32 `[n, k]` its k most
    likely tokens there; `entropy` float32 `[n]`, nats, of its whole distribution there. `hidden` `[n, H]` are the
    teacher's last hidden states, kept only for exact divergences and never stored: with the teacher's output head they
    give the whole distribution, a chunk of positions at a time.
    """

    positions: np.ndarray
    lt: np.ndarray
    top_ids: np.ndarray | None = None
    top_lt: np.ndarray | None = None
    hidden: torch.Tensor | None = None
    entropy: np.ndarray | None = None


@dataclass(frozen=True)
class ScoredBatch:
    """Trajectories as padded tensors, with the teacher's scores. Axes: B trajectories, T tokens, K turns, k top tokens.

    Entries outside `action | guided` are padding, prompt or template; consumers must not let them matter.
    """

    action: torch.Tensor  # bool [B, T]  tokens the student sampled as part of an action
    guided: torch.Tensor  # bool [B, T]  action tokens the teacher wrote; disjoint from `action`
    turn: torch.Tensor  # int64 [B, T]  turn index, -1 outside actions
    ls: torch.Tensor  # float [B, T]  nats, student at sampling time
    lt: torch.Tensor  # float [B, T]  nats, teacher
    ok: torch.Tensor  # bool [B, K]  the environment accepted the action of this turn
    complete: torch.Tensor  # bool [B, K]  the action was not cut off
    trajectory_id: torch.Tensor  # int64 [B]  keys the random numbers of the gate
    teacher_available: torch.Tensor  # bool [B]
    top_ids: torch.Tensor | None = None  # int64 [B, T, k]
    top_lt: torch.Tensor | None = None  # float [B, T, k]  nats
    entropy: torch.Tensor | None = None  # float [B, T]  nats, the teacher's; NaN where it is not known
    success: torch.Tensor | None = None  # bool [B]  the outcome; None unless all trajectories have one
    repeat: torch.Tensor | None = None  # bool [B, K]  the turn before did the very same, to the same effect

    def to(self, device: torch.device | str) -> ScoredBatch:
        moved = {
            f.name: value.to(device) if isinstance(value := getattr(self, f.name), torch.Tensor) else value
            for f in dataclasses.fields(self)
        }
        return ScoredBatch(**moved)


def pad_scored(trajectories: Sequence[Trajectory]) -> ScoredBatch:
    """Right-pad trajectories into one `ScoredBatch`. A trajectory without scores counts as "teacher unavailable"."""
    B = len(trajectories)
    T = max((len(t.tokens) for t in trajectories), default=0)
    K = max((len(t.turns) for t in trajectories), default=0)
    widths = {t.scores.top_ids.shape[1] for t in trajectories if t.scores is not None and t.scores.top_ids is not None}
    if len(widths) > 1:
        raise ValueError(
            f"trajectories carry different numbers of top tokens: {sorted(widths)}; score them with one top_k"
        )
    k = widths.pop() if widths else 0
    # Filled in as arrays, of which a small piece is written much faster than of a tensor.
    action, guided = np.zeros((B, T), dtype=bool), np.zeros((B, T), dtype=bool)
    turn = np.full((B, T), -1, dtype=np.int64)
    ls, lt = np.zeros((B, T), dtype=np.float32), np.zeros((B, T), dtype=np.float32)
    ok, complete = np.ones((B, K), dtype=bool), np.ones((B, K), dtype=bool)
    repeat = np.zeros((B, K), dtype=bool)
    available = np.zeros(B, dtype=bool)
    top_ids = np.zeros((B, T, k), dtype=np.int64) if k else None
    top_lt = np.full((B, T, k), -np.inf, dtype=np.float32) if k else None
    with_entropy = any(t.scores is not None and t.scores.entropy is not None for t in trajectories)
    entropy = np.full((B, T), np.nan, dtype=np.float32) if with_entropy else None
    outcomes = [t.success for t in trajectories]
    success = None if None in outcomes else torch.tensor(outcomes, dtype=torch.bool)
    for b, trajectory in enumerate(trajectories):
        ls[b, : len(trajectory.tokens)] = trajectory.logprobs
        for j, played in enumerate(trajectory.turns):
            span = slice(*played.action)
            turn[b, span] = j
            action[b, span] = played.author == "student"
            guided[b, span] = played.author == "teacher"
            ok[b, j] = played.ok
            complete[b, j] = played.stop is Stop.END
        repeat[b, : len(trajectory.turns)] = trajectory.repeats()
        scores = trajectory.scores
        if scores is None:
            continue
        available[b] = True
        lt[b, scores.positions] = scores.lt
        if top_ids is not None and top_lt is not None and scores.top_ids is not None and scores.top_lt is not None:
            top_ids[b, scores.positions] = scores.top_ids
            top_lt[b, scores.positions] = scores.top_lt
        if entropy is not None and scores.entropy is not None:
            entropy[b, scores.positions] = scores.entropy
    ids = np.array([t.id for t in trajectories], dtype=np.int64)
    tensor = torch.from_numpy
    return ScoredBatch(
        tensor(action),
        tensor(guided),
        tensor(turn),
        tensor(ls),
        tensor(lt),
        tensor(ok),
        tensor(complete),
        tensor(ids),
        tensor(available),
        None if top_ids is None else tensor(top_ids),
        None if top_lt is None else tensor(top_lt),
        None if entropy is None else tensor(entropy),
        success,
        tensor(repeat),
    )
