"""Feeding conversations of any age in one pass of a model: their tokens in one line, without padding.

Only attention has to know whose tokens they are. It works block by block: a block is a set of conversations that are
given similar numbers of tokens, padded to the longest. Invariant: a token sees the tokens of its own conversation up to
itself, as far back as the layer's window reaches, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from trpd_agents.attention import attend

SLACK = 256  # tokens of padding that cost less than a block of their own
TOKENS = 1 << 15  # in one pass
MASK = 1 << 24  # entries of a block's attention mask
ATTENTION = "trpd_conversations"  # its name among the attention functions of transformers


@dataclass(frozen=True)
class Block:
    """R conversations in one call of attention: W new tokens each, up to C columns of the cache."""

    rows: slice | torch.Tensor
    tokens: slice
    place: torch.Tensor | None  # int64 [n]: where the block's tokens are among R * W; None if they fill it
    own: torch.Tensor  # int64 [R, W]: the column of each token
    oldest: int  # at most the lowest of these
    columns: int  # C
    dtype: torch.dtype
    views: dict[int | None, tuple[int, torch.Tensor]] = field(default_factory=dict)

    def view(self, window: int | None) -> tuple[int, torch.Tensor]:
        """What is seen through a window of so many tokens, each token's own included; None is all before it.

        Returns:
            The first column that anything is seen of, and the mask `[R, 1, W, C - first]` of those from there on, which
            is added to the attention logits.
        """
        if window is not None and window >= self.columns:
            window = None
        if window not in self.views:
            first = 0 if window is None else max(0, self.oldest - window + 1)
            own = self.own[:, None, :, None]
            column = torch.arange(first, self.columns, device=own.device)
            unseen = column > own
            if window is not None:
                unseen |= column <= own - window
            mask = torch.zeros(unseen.shape, dtype=self.dtype, device=own.device).masked_fill_(unseen, -torch.inf)
            self.views[window] = first, mask
        return self.views[window]

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sliding_window: int | None = None,
        **how: Any,
    ) -> torch.Tensor:
        """Attention's output `[n, heads, value size]` for the block's queries `[n, heads, head size]`."""
        rows, width = self.own.shape
        if self.place is None:
            spread = query
        else:
            spread = query.new_zeros(rows * width, *query.shape[1:])
            spread[self.place] = query
        spread = spread.view(rows, width, *query.shape[1:]).transpose(1, 2)
        first, mask = self.view(sliding_window)
        keys, values = (x[self.rows, :, first : self.columns] for x in (keys, values))
        found = attend(module, spread, keys, values, mask, is_causal=False, **how)
        found = found.reshape(rows * width, *found.shape[2:])
        return found if self.place is None else found[self.place]


@dataclass(frozen=True)
class Feed:
    """N tokens that go through the model together, block after block.

    `order[i]` is which of the conversations comes i-th, `rows` and `columns` int64 `[N]` are where each token goes.
    """

    order: list[int]
    rows: torch.Tensor
    columns: torch.Tensor
    blocks: list[Block]
    width: int  # columns that the cache needs


def plan_feed(
    rows: Sequence[int], past: Sequence[int], sizes: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Feed:
    """How to feed `sizes[i]` >= 1 tokens to row `rows[i]` of the cache, which holds `past[i]` already."""
    blocks: list[Block] = []
    order: list[int] = []
    start = 0
    for group in group_by_size(past, sizes):
        size = torch.tensor([sizes[i] for i in group], device=device)
        offset = torch.tensor([past[i] for i in group], device=device)
        count, width = len(group), max(sizes[i] for i in group)
        new = torch.arange(width, device=device)
        real = sum(sizes[i] for i in group)
        place = None if real == count * width else (new < size[:, None]).flatten().nonzero()[:, 0]
        block = Block(
            rows=_neighbours([rows[i] for i in group], device),
            tokens=slice(start, start + real),
            place=place,
            own=offset[:, None] + new,
            oldest=min(past[i] for i in group),
            columns=max(past[i] + sizes[i] for i in group),
            dtype=dtype,
        )
        blocks.append(block)
        order += group
        start += real
    sizes_in_order = torch.tensor([sizes[i] for i in order], device=device)
    at = torch.tensor([[rows[i], past[i]] for i in order], device=device).repeat_interleave(sizes_in_order, dim=0)
    begin = (sizes_in_order.cumsum(0) - sizes_in_order).repeat_interleave(sizes_in_order)
    columns_of = at[:, 1] + torch.arange(start, device=device) - begin
    width = max(p + s for p, s in zip(past, sizes, strict=True))
    return Feed(order, at[:, 0], columns_of, blocks, width)


def passes(jobs: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """`jobs` in their order, in as many passes as it takes for none to have more than `TOKENS` tokens if it can."""
    found: list[list[int]] = []
    room = 0
    for job, size in zip(jobs, sizes, strict=True):
        if not found or size > room:
            found.append([])
            room = TOKENS
        found[-1].append(job)
        room -= size
    return found


def group_by_size(past: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Indices grouped so that at most a third of a group is padding (a small one may have more), in bounded memory."""
    groups: list[list[int]] = []
    real = width = reach = 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        reach = max(reach, past[i])
        padded = width * (len(groups[-1]) + 1) if groups else 0
        if groups and padded * (width + reach) <= MASK and padded - real - sizes[i] <= (real + sizes[i]) // 2 + SLACK:
            groups[-1].append(i)
            real += sizes[i]
        else:
            groups.append([i])
            real = width = sizes[i]
            reach = past[i]
    # In the given order, so that neighbouring rows of the cache stay neighbours.
    return [sorted(group) for group in groups]


def _neighbours(rows: Sequence[int], device: torch.device) -> slice | torch.Tensor:
    """Neighbouring rows are read where they lie, others have to be brought together."""
    first, count = rows[0], len(rows)
    if list(rows) == list(range(first, first + count)):
        return slice(first, first + count)
    return torch.tensor(rows, device=device)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    feed: Feed,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for each layer: `query` is `[1, heads, N, head size]`, `key` and `value` are the cache's
    `[S, heads, C, head size]`."""
    queries = query[0].transpose(0, 1)
    how: dict[str, Any] = {"sliding_window": sliding_window, "scaling": scaling, "softcap": softcap, "s_aux": s_aux}
    parts = [block.attend(module, queries[block.tokens], key, value, **how) for block in feed.blocks]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


AttentionInterface.register(ATTENTION, _attention)
