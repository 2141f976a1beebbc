"""Token sequences laid end to end along one row: no padding, and a prefix that several share is there only once.

Everything in a model but attention looks at one token at a time, so it may run over the row as it is. Attention is
confined to each token's own sequence by `packed_attention`, which a model reaches under the name `ATTENTION`. On CUDA
in half precision it is one variable-length kernel. Elsewhere it is one call per sequence: each fits the processor's
cache, which makes the calls faster than one over padded sequences. Where a layer sees only a window, cost is linear in
length.

Invariant: what comes out for a token is what its sequence alone would give, but for rounding; whatever shares the row.
A token's state is a function of the tokens up to it, so sequences that begin alike may share those states, and their
gradients add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from trpd_agents.attention import attend, band

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None  # type: ignore[assignment]
if varlen_attn is not None and not {"scale", "window_size", "enable_gqa"} <= set(signature(varlen_attn).parameters):
    varlen_attn = None  # type: ignore[assignment]  # torch 2.10 cannot leave a context unmasked or share keys

ATTENTION = "trpd_packed"
"""The attention implementation's name in transformers. Without `segments` it is its `sdpa`."""

SHARED_AT_LEAST = 16
"""Tokens. A shorter common beginning is encoded again, which costs less than attending to it elsewhere in the row."""

LARGEST_HEAD = 256  # that the variable-length kernel takes
QUERIES = 256  # of a sequence longer than a layer's window, in one call


@dataclass(frozen=True)
class Segments:
    """How a row's columns make up sequences: N segments in the order of the row, each with a context to attend to.

    Segment i has `sizes[i]` columns of its own; the `contexts[i]` columns before them in its sequence are of earlier
    segments. `context_columns` int64 `[sum(contexts)]` says where, or is None if there are none. `key_columns` int64
    are those of context and own columns together, segment after segment; `query_ends` and `key_ends` int32 `[N + 1]`
    the cumulative sizes without and with contexts.
    """

    sizes: list[int]
    contexts: list[int]
    context_columns: torch.Tensor | None
    key_columns: torch.Tensor | None
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    bands: dict[int, torch.Tensor] = field(default_factory=dict)  # by window: the mask of `QUERIES` tokens beyond it

    def band(self, queries: int, window: int) -> torch.Tensor:
        """Bool `[1, 1, queries, queries + window - 1]`, see `attention.band`."""
        if window not in self.bands:
            self.bands[window] = band(QUERIES, window, self.query_ends.device)[None, None]
        return self.bands[window][:, :, :queries, : queries + window - 1]


@dataclass(frozen=True)
class Packed:
    """A row of `ids` and `position_ids` int64 `[1, R]`. `columns[i]` int64 `[T_i]`: where sequence i's tokens are."""

    ids: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    columns: list[np.ndarray]


def pack(sequences: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Packed:
    """One row of `sequences`, int `[T_i]` each, none of them empty.

    A sequence shares what it has in common with the one before it in the list; in the order of `packed_batches` that is
    all there is to share.
    """
    columns: list[np.ndarray] = []
    owned: list[tuple[np.ndarray, int]] = []  # of each segment: its columns, and how many of them are earlier ones
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    width = 0
    for i, sequence in enumerate(sequences):
        common = _common(sequences[i - 1], sequence) if i else 0
        if common < SHARED_AT_LEAST:
            common = 0
        new = len(sequence) - common
        own = np.arange(width, width + new)
        columns.append(np.concatenate([columns[i - 1][:common], own]) if common else own)
        if new:
            owned.append((columns[i], common))
            ids.append(np.asarray(sequence[common:], dtype=np.int64))
            positions.append(np.arange(common, len(sequence)))
            width += new
    row = torch.from_numpy(np.stack([np.concatenate(ids), np.concatenate(positions)])).to(device)
    return Packed(row[:1], row[1:], _segments(owned, device), columns)


def _segments(owned: Sequence[tuple[np.ndarray, int]], device: torch.device | str) -> Segments:
    contexts = [common for _, common in owned]
    lengths = [len(columns) for columns, _ in owned]
    sizes = [length - common for length, common in zip(lengths, contexts, strict=True)]
    shared = key = None
    if any(contexts):
        shared = torch.from_numpy(np.concatenate([columns[:common] for columns, common in owned])).to(device)
        key = torch.from_numpy(np.concatenate([columns for columns, _ in owned])).to(device)
    query_ends, key_ends = (
        torch.tensor(np.cumsum([0, *counts]), dtype=torch.int32, device=device) for counts in (sizes, lengths)
    )
    return Segments(sizes, contexts, shared, key, query_ends, key_ends)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each of `segments` and from it to its context, no further back than `sliding_window`.

    `query` `[1, A, R, D]`, `key` `[1, G, R, D]`, `value` `[1, G, R, E]`, where A heads share G. Returns `[1, R, A, E]`.
    The window, in tokens, counts a token itself; for `softcap` and `s_aux` see `attention`.
    """
    how: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "softcap": softcap, "s_aux": s_aux}
    if segments is None:
        return attend(module, query, key, value, attention_mask, **how, **kwargs), None
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        # Over float32 weights the rotation of positions has widened queries and keys, and left values as they were.
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    plain = not dropout and softcap is None and s_aux is None and value.shape[-1] == query.shape[-1] <= LARGEST_HEAD
    if half and varlen_attn is not None and plain:
        return _variable_length(query, key, value, scaling, sliding_window, segments), None
    queries, keys, values = (list(x.split(segments.sizes, dim=2)) for x in (query, key, value))
    if segments.context_columns is not None:
        for parts, whole in ((keys, key), (values, value)):
            shared = whole.index_select(2, segments.context_columns).split(segments.contexts, dim=2)
            parts[:] = [torch.cat([s, x], dim=2) if s.shape[2] else x for s, x in zip(shared, parts, strict=True)]
    found: list[torch.Tensor] = []
    for q, k, v in zip(queries, keys, values, strict=True):
        length = k.shape[2]
        context = length - q.shape[2]
        window = length if sliding_window is None else min(sliding_window, length)
        if context < window:
            # As many queries as keys keep attention plainly causal, which spares the mask; theirs are thrown away.
            first = pad(q[:, :, : window - context], (0, 0, context, 0)) if context else q[:, :, :window]
            inside = attend(module, first, k[:, :, :window], v[:, :, :window], None, is_causal=True, **how)
            found.append(inside[:, context:])
        for start in range(max(context, window), length, QUERIES):
            end = min(start + QUERIES, length)
            few, reach = q[:, :, start - context : end - context], slice(start - window + 1, end)
            mask = segments.band(end - start, window)
            found.append(attend(module, few, k[:, :, reach], v[:, :, reach], mask, is_causal=False, **how))
    return torch.cat(found, dim=1), None


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    segments: Segments,
) -> torch.Tensor:
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    if segments.key_columns is not None:
        key, value = (x.index_select(0, segments.key_columns) for x in (key, value))
    found = varlen_attn(
        query,
        key,
        value,
        segments.query_ends,
        segments.key_ends,
        max(segments.sizes),
        max(size + context for size, context in zip(segments.sizes, segments.contexts, strict=True)),
        scale=scaling,
        # Causal, aligned at the end: a segment's last token sees its whole context, or as many before it.
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, torch.Tensor)  # and not a tuple: nothing else is asked for
    return found[None]


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
