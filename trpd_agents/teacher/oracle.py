"""A teacher without a model: the environment's own expert, as a distribution over tokens.

In a state with optimal actions O and legal actions L (their texts, encoded as answers, end token included) the oracle
first chooses a whole action: with probability `1 - uniform` one of O, else one of O and L together, evenly each. What
it says of a token is the probability of that choice given the tokens before it:

    p(x | prefix) = (1 - FLOOR) * W(prefix + x) / W(prefix) + FLOOR / V

where `W(prefix)` is the probability of the actions that begin with `prefix` and V the size of the vocabulary. So a
prefix that no optimal action shares is continued evenly over the legal ones, and so is everything in a state that is
lost, where O is empty. After a prefix that no action at all shares, and in a lost state of an environment that lists
no legal actions, nothing is known and every token has probability `1 / V`. Actions are told apart by tokens: another
spelling of a legal action is such a prefix.

Invariant: at every position this is one normalised distribution, and what is scored, listed as top tokens, and expanded
by `log_distribution` is that distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trpd_agents.batching import position_chunk
from trpd_agents.dialogue import Dialogue
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Engine
from trpd_agents.teacher.oracle_engine import OracleEngine
from trpd_agents.teacher.oracle_replay import Options, replay
from trpd_agents.trajectory import Scores, Trajectory

FLOOR = 1e-4
"""Probability spread evenly over the vocabulary at every position, which keeps every log-probability finite."""

_LARGEST_VOCABULARY = 2**24  # ids up to here are exact in float32

Answer = tuple[tuple[int, ...], float]
"""An action's token ids, and the probability that the oracle chooses it."""


class OracleTeacher:
    """Scores any episode of an environment that has an expert, by playing it again (see `oracle_replay`).

    Args:
        tokenizer: the student's.
        vocab_size: V, of the student's output head.
        uniform: in (0, 1), the probability of choosing among all legal actions.
        top_k: how many of its most likely tokens to return per position; 0 for none.
        entropy: whether to return the entropy of the distribution per position.
        keep_hidden: keep the distributions, for `log_distribution`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        *,
        uniform: float = 0.01,
        top_k: int = 0,
        entropy: bool = False,
        keep_hidden: bool = False,
    ):
        if not 0 < uniform < 1:
            raise ValueError(f"uniform: found {uniform!r}, wanted a number > 0 and < 1")
        if vocab_size > _LARGEST_VOCABULARY:
            raise ValueError(f"vocab_size: found {vocab_size}, wanted at most {_LARGEST_VOCABULARY}")
        self.vocab_size = vocab_size
        self.uniform = uniform
        self.top_k = top_k
        self.entropy = entropy
        self.keep_hidden = keep_hidden
        self.engine: Engine = OracleEngine(tokenizer)
        self._dialogues = Dialogues(tokenizer)
        self._encode = lru_cache(1 << 16)(lambda dialogue, text: tuple(dialogue.answer(text)))

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        """The oracle's opinion of every action token, whoever wrote it.

        Raises:
            UserError: an environment has no expert.
            RunError: an environment is not deterministic under its seed.
        """
        opinions = [self._opinions(trajectory) for trajectory in trajectories]
        packed = self._pack([here for one in opinions for here in one])
        scores: list[Scores] = []
        start = 0
        for trajectory, one in zip(trajectories, opinions, strict=True):
            rows = packed[start : start + len(one)]
            positions = trajectory.action_positions()
            scores.append(self._scores(positions, trajectory.tokens[positions], rows))
            start += len(one)
        return scores

    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        """log-probabilities over the vocabulary, `[n, V]` nats, from rows `[n, 1 + 2m]` that `score` kept.

        A row holds the log-probability of every token that is not listed, the ids of up to m listed tokens (V where
        there is none), and their log-probabilities.
        """
        rest, ids, listed = _unpack(hidden)
        whole = rest[:, None].repeat(1, self.vocab_size + 1)
        return whole.scatter_(1, ids, listed)[:, :-1]

    def _opinions(self, trajectory: Trajectory) -> list[dict[int, float]]:
        """`continuations` at every action token of an episode."""
        played = replay(trajectory)
        dialogue = self._dialogues(played.instructions, played.tools)
        found: list[dict[int, float]] = []
        for turn, options in zip(trajectory.turns, played.options, strict=True):
            sampled = trajectory.tokens[turn.action[0] : turn.action[1]].tolist()
            found += continuations(self._answers(dialogue, options), sampled)
        return found

    def _answers(self, dialogue: Dialogue, options: Options) -> list[Answer]:
        return [(self._encode(dialogue, text), weight) for text, weight in choice(options, self.uniform).items()]

    def _pack(self, opinions: Sequence[dict[int, float]]) -> torch.Tensor:
        """Rows `[n, 1 + 2m]` for `log_distribution`; m is the largest number of tokens listed anywhere here."""
        n, m, V = len(opinions), max(map(len, opinions), default=0), self.vocab_size
        rest = np.full(n, -math.log(V))
        ids = np.full((n, m), V, dtype=np.int64)
        listed = np.full((n, m), -math.inf)
        for row, here in enumerate(opinions):
            if here:
                rest[row] = math.log(FLOOR / V)
                ids[row, : len(here)] = list(here)
                listed[row, : len(here)] = [math.log((1 - FLOOR) * p + FLOOR / V) for p in here.values()]
        return torch.from_numpy(np.concatenate([rest[:, None], ids, listed], axis=1).astype(np.float32))

    def _scores(self, positions: np.ndarray, tokens: np.ndarray, rows: torch.Tensor) -> Scores:
        rest, ids, listed = _unpack(rows)
        sampled = ids == torch.from_numpy(tokens.astype(np.int64))[:, None]
        lt = torch.where(sampled.any(1), torch.where(sampled, listed, 0).sum(1), rest)
        scores = Scores(positions, lt.numpy(), hidden=rows if self.keep_hidden else None)
        if self.top_k:
            top_lt, top_ids = self._top(rows)
            scores.top_lt, scores.top_ids = top_lt.numpy(), top_ids.int().numpy()
        if self.entropy:
            others = self.vocab_size - (ids < self.vocab_size).sum(1)
            scores.entropy = (torch.special.entr(listed.exp()).sum(1) - others * rest.exp() * rest).numpy()
        return scores

    def _top(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and ids `[n, k]`. Few positions differ, so each distribution is expanded once."""
        distinct, which = torch.unique(rows, dim=0, return_inverse=True)
        chunks = [self.log_distribution(c).topk(self.top_k) for c in distinct.split(position_chunk(self.vocab_size))]
        values, ids = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return values[which], ids[which]


def choice(options: Options, uniform: float) -> dict[str, float]:
    """The probability with which the oracle chooses each action; empty when there is nothing to choose from."""
    allowed = dict.fromkeys([*options.optimal, *options.legal])
    share = uniform if options.optimal else 1.0
    chances = dict.fromkeys(allowed, share / len(allowed)) if allowed else {}
    for text in options.optimal:
        chances[text] += (1 - uniform) / len(options.optimal)
    return chances


def continuations(answers: Iterable[Answer], sampled: Sequence[int]) -> list[dict[int, float]]:
    """Probabilities of the next token before each of the `sampled` ones, given those before it.

    Empty where none of the `answers` begins with what was sampled. No answer may begin another, which their end tokens
    see to.
    """
    left = list(answers)
    found: list[dict[int, float]] = []
    for j, token in enumerate(sampled):
        total = math.fsum(weight for _, weight in left)
        here: dict[int, float] = {}
        for ids, weight in left:
            here[ids[j]] = here.get(ids[j], 0.0) + weight / total
        found.append(here)
        left = [(ids, weight) for ids, weight in left if ids[j] == token and len(ids) > j + 1]
    return found


def _unpack(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of unlisted tokens `[n]`, and listed ids and their log-probabilities `[n, m]`."""
    m = (rows.shape[1] - 1) // 2
    return rows[:, 0], rows[:, 1 : 1 + m].long(), rows[:, 1 + m :]
