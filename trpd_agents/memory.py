"""What to do when memory runs out: the same work once more in smaller micro-batches, then a word on what to lower."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from trpd_agents.errors import RunError

T = TypeVar("T")

_ALLOCATOR = ("can't allocate memory", "not enough memory", "out of memory")  # what torch's CPU and MPS allocators say


def within_memory(
    work: Callable[[int], T],
    token_budget: int,
    *,
    phase: str,
    advice: str = "",
    again: Callable[[], object] | None = None,
) -> tuple[T, int]:
    """`work(token_budget)`, and if memory runs out in it once more with half of that; and the budget that it fitted in.

    Args:
        phase: what is done, for the messages.
        advice: what else can be done about it than lowering `learner.token_budget`.
        again: undoes what the first attempt has left behind.

    Raises:
        RunError: memory ran out both times.
    """
    try:
        return work(token_budget), token_budget
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        reason = _first_line(error)
    # Outside of the handler: the error holds the frames of the attempt, and with them its tensors.
    _free()
    half = max(1, token_budget // 2)
    warnings.warn(
        f"out of memory in the {phase} ({reason}); trying micro-batches of {half} tokens instead of {token_budget}; "
        "lower learner.token_budget to have them from the start",
        RuntimeWarning,
        stacklevel=2,
    )
    if again is not None:
        again()
    try:
        return work(half), half
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise RunError(
            f"out of memory in the {phase}, also in micro-batches of {half} tokens ({_first_line(error)}); lower "
            f"learner.token_budget ({token_budget}) and with it rollout.max_tokens{advice}"
        ) from None


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _ALLOCATOR)


def _first_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0].rstrip(".")


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
