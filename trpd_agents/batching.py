"""Splitting sequences into micro-batches of bounded size. Nothing computed per sequence may depend on the split."""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of sequences grouped so that `longest * count <= token_budget`, padding included.

    Sequences are taken longest first, so that a group holds similar lengths and little padding. A sequence longer than
    the budget gets a group of its own. `lengths` in tokens; empty sequences are left out.
    """
    order = sorted((i for i, n in enumerate(lengths) if n > 0), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= token_budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def position_chunk(vocab_size: int) -> int:
    """How many positions to take through the output head at once: 128 MiB of float32 logits for any vocabulary."""
    return max(1, 2**25 // vocab_size)
