"""Builders of scored batches from turns written out by hand, with garbage wherever no consumer may look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import strategies as st

from trpd_agents.trajectory import ScoredBatch

TOP = 3  # top tokens per position


@dataclass
class Played:
    """One turn: the tokens of its action, and how many prompt tokens come before them."""

    ls: list[float] = field(default_factory=list)
    lt: list[float] = field(default_factory=list)
    gap: int = 1
    author: str = "student"
    ok: bool = True
    complete: bool = True
    repeat: bool = False
    entropy: float = 0.5  # nats, the teacher's at each token


Episode = list[Played]


def build(
    episodes: Sequence[Episode],
    *,
    ids: Sequence[int] | None = None,
    available: Sequence[bool] | None = None,
    success: Sequence[bool] | None = None,
    pad_left: int = 0,
    pad_right: int = 0,
    pad_turns: int = 0,
    garbage: float = float("nan"),
    dtype: torch.dtype = torch.float32,
) -> ScoredBatch:
    B = len(episodes)
    lengths = [sum(t.gap + len(t.ls) for t in episode) for episode in episodes]
    T = max(lengths, default=0) + pad_left + pad_right
    K = max((len(e) for e in episodes), default=0) + pad_turns
    action = torch.zeros(B, T, dtype=torch.bool)
    guided = torch.zeros(B, T, dtype=torch.bool)
    turn = torch.full((B, T), -1)
    ls, lt = torch.full((B, T), garbage, dtype=dtype), torch.full((B, T), garbage, dtype=dtype)
    ok, complete = torch.ones(B, K, dtype=torch.bool), torch.ones(B, K, dtype=torch.bool)
    repeat = torch.zeros(B, K, dtype=torch.bool)
    entropy = torch.full((B, T), garbage, dtype=dtype)
    top_ids = torch.full((B, T, TOP), -7)
    top_lt = torch.full((B, T, TOP), garbage, dtype=dtype)
    for b, episode in enumerate(episodes):
        t = pad_left
        for k, played in enumerate(episode):
            t += played.gap
            span = slice(t, t + len(played.ls))
            (action if played.author == "student" else guided)[b, span] = True
            turn[b, span] = k
            ls[b, span] = torch.tensor(played.ls, dtype=dtype)
            lt[b, span] = torch.tensor(played.lt, dtype=dtype)
            ok[b, k], complete[b, k], repeat[b, k] = played.ok, played.complete, played.repeat
            entropy[b, span] = played.entropy
            top_ids[b, span] = torch.arange(TOP)
            top_lt[b, span] = torch.tensor([0.5, 0.3, 0.1]).log().to(dtype)
            t = span.stop
    return ScoredBatch(
        action,
        guided,
        turn,
        ls,
        lt,
        ok,
        complete,
        torch.tensor(list(ids) if ids is not None else list(range(B)), dtype=torch.int64),
        torch.tensor(list(available) if available is not None else [True] * B, dtype=torch.bool),
        top_ids,
        top_lt,
        entropy,
        None if success is None else torch.tensor(list(success), dtype=torch.bool),
        repeat,
    )


def on_tokens(values: torch.Tensor, scored: ScoredBatch) -> list[list[float]]:
    """Values of each trajectory's action and guided tokens, in order: what must not depend on padding."""
    return [values[b][scored.action[b] | scored.guided[b]].tolist() for b in range(values.shape[0])]


@pytest.fixture(scope="session")
def build_batch() -> Callable[..., ScoredBatch]:
    return build


@pytest.fixture(scope="session")
def tokens_of() -> Callable[..., list[list[float]]]:
    return on_tokens


@pytest.fixture(scope="session")
def turn_type() -> type[Played]:
    return Played


@st.composite
def played_turns(draw: st.DrawFn, authors: Sequence[str] = ("student", "student", "teacher")) -> Played:
    n = draw(st.integers(0, 4))
    log_prob = st.floats(-6, 0, width=32)
    return Played(
        ls=draw(st.lists(log_prob, min_size=n, max_size=n)),
        lt=draw(st.lists(log_prob, min_size=n, max_size=n)),
        gap=draw(st.integers(0, 2)),
        author=draw(st.sampled_from(list(authors))),
        ok=draw(st.booleans()),
        complete=draw(st.sampled_from([True, True, False])),
        repeat=draw(st.booleans()),
        entropy=draw(st.sampled_from([0.0, 0.5, 2.0])),
    )


@pytest.fixture(scope="session")
def episodes() -> st.SearchStrategy[list[Episode]]:
    """Batches of 1 to 3 episodes of 0 to 5 turns, guided ones and empty ones among them."""
    return st.lists(st.lists(played_turns(), max_size=5), min_size=1, max_size=3)
