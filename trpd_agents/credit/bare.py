"""A `ScoredBatch` from bare tensors, for those who come with a trainer of their own.

Invariant: nothing is guessed that changes a weight silently: what is left out means "nothing special happened" (every
turn accepted and complete, every teacher score there), and turns that touch have to be told apart by the caller.
"""

from __future__ import annotations

import torch

from trpd_agents.trajectory import ScoredBatch


def scored_batch(
    action: torch.Tensor,
    ls: torch.Tensor,
    lt: torch.Tensor,
    *,
    turn: torch.Tensor | None = None,
    guided: torch.Tensor | None = None,
    ok: torch.Tensor | None = None,
    complete: torch.Tensor | None = None,
    trajectory_id: torch.Tensor | None = None,
    teacher_available: torch.Tensor | None = None,
    top_ids: torch.Tensor | None = None,
    top_lt: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
    success: torch.Tensor | None = None,
    repeat: torch.Tensor | None = None,
) -> ScoredBatch:
    """What `assign_credit` reads, padded on either side; entries outside `action` and `guided` may hold anything.

    Args:
        action: `[B, T]`, true or 1 on the tokens the student sampled: a trainer's loss or completion mask.
        ls: `[B, T]`, nats, the student's log-probability of each token when it was sampled.
        lt: `[B, T]`, nats, the teacher's of the same token after the same prefix.
        turn: int `[B, T]`, the turn each action or guided token belongs to. By default every run of neighbouring tokens
            of one author is a turn, numbered from 0 in each row; turns with nothing between them need this argument.
        guided: `[B, T]`, tokens the teacher wrote; by default none.
        ok: bool `[B, K]`, the environment accepted the action; by default always.
        complete: bool `[B, K]`, the action was not cut off; by default never was.
        trajectory_id: int `[B]`, names the random numbers; by default the row, so give your own when batches are cut
            from a larger one.
        teacher_available: bool `[B]`; by default everywhere.
        top_ids, top_lt: `[B, T, k]`, the teacher's k most likely tokens and their log-probabilities (nats).
        entropy: `[B, T]`, nats, the teacher's, for outlier `entropy`.
        success: bool `[B]`, for filter `reward_aligned`.
        repeat: bool `[B, K]`, the turn only repeats the one before; by default never.

    Raises ValueError for a mask that is not `[B, T]` or holds other values than 0 and 1; `assign_credit` checks the
    rest.
    """
    action = _mask("action", action)
    guided = torch.zeros_like(action) if guided is None else _mask("guided", guided)
    if guided.shape != action.shape:
        raise ValueError(f"guided: found shape {tuple(guided.shape)}, wanted {tuple(action.shape)} like action")
    B = action.shape[0]
    device = action.device
    turn = _runs(action, guided) if turn is None else turn.to(torch.int64)
    given = [t.shape[1] for t in (ok, complete, repeat) if t is not None and t.ndim == 2]
    K = given[0] if given else int(turn.max()) + 1 if turn.numel() else 0
    everywhere = torch.ones(B, K, dtype=torch.bool, device=device)
    return ScoredBatch(
        action=action,
        guided=guided,
        turn=turn,
        ls=ls,
        lt=lt,
        ok=everywhere if ok is None else ok.to(torch.bool),
        complete=everywhere if complete is None else complete.to(torch.bool),
        trajectory_id=torch.arange(B, device=device) if trajectory_id is None else trajectory_id,
        teacher_available=torch.ones(B, dtype=torch.bool, device=device)
        if teacher_available is None
        else teacher_available.to(torch.bool),
        top_ids=top_ids,
        top_lt=top_lt,
        entropy=entropy,
        success=None if success is None else success.to(torch.bool),
        repeat=None if repeat is None else repeat.to(torch.bool),
    )


def _mask(name: str, mask: torch.Tensor) -> torch.Tensor:
    if mask.ndim != 2:
        raise ValueError(f"{name}: found shape {tuple(mask.shape)}, wanted [B, T]: one row for each trajectory")
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"{name}: found values other than 0 and 1, wanted a mask")
    return mask.to(torch.bool)


def _runs(action: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
    """int64 `[B, T]`: the number of the run of neighbouring tokens of one author, -1 outside."""
    author = action.to(torch.int64) + 2 * guided.to(torch.int64)
    before = torch.nn.functional.pad(author, (1, 0))[:, :-1]
    starts = (author != 0) & (author != before)
    return torch.where(author != 0, starts.to(torch.int64).cumsum(1) - 1, -1)
