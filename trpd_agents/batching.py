"""Splitting sequences into micro-batches of bounded size. Nothing computed per sequence may depend on the split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

CPU_BUDGET = 2048  # what the layers of a small model make of so many tokens stays in a processor's cache
BUDGET = 16_384


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


def packed_batches(sequences: Sequence[np.ndarray], token_budget: int) -> list[list[int]]:
    """Indices of `sequences`, int `[T_i]` each, grouped so that they have at most `token_budget` tokens together.

    They are taken in the order of their tokens, so that those that begin alike are neighbours. A sequence longer than
    the budget gets a group of its own; empty sequences are left out.
    """
    present = [i for i, s in enumerate(sequences) if len(s)]
    groups: list[list[int]] = []
    room = 0
    # Big-endian bytes compare as the numbers do.
    for i in sorted(present, key=lambda i: np.asarray(sequences[i]).astype(">u4").tobytes()):
        if not groups or len(sequences[i]) > room:
            groups.append([])
            room = token_budget
        groups[-1].append(i)
        room -= len(sequences[i])
    return groups


def pick_token_budget(budget: int | Literal["auto"], device: torch.device) -> int:
    """How many tokens to put into a micro-batch on `device`: `budget` itself, unless it is left to us."""
    if budget != "auto":
        return budget
    return CPU_BUDGET if device.type == "cpu" else BUDGET


def pad_ids(sequences: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Right-padded int64 `[B, T]`. The padding id is 0: causal attention never lets a real token see it."""
    width = max(len(s) for s in sequences)
    ids = np.zeros((len(sequences), width), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(ids).to(device)


def position_chunk(vocab_size: int) -> int:
    """How many positions to take through the output head at once: 128 MiB of float32 logits for any vocabulary."""
    return max(1, 2**25 // vocab_size)
