"""Keys and values of the conversations that are being held: one row each, a token's column is its position in it.

Invariant: row r holds the first `lengths[r]` tokens of `conversations[r]`, without holes; what lies beyond is never
seen, and is overwritten by the tokens that come. Rows are always the first ones of the storage, so that a model reads
keys and values where they lie: conversations join at the end, and those at the end move into the places of those that
leave. Storage is allocated ahead and given back when the last conversation has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class ConversationCache:
    """The cache of all of an engine's conversations with a model of so many `layers`."""

    def __init__(self, layers: int, device: torch.device):
        self.device = device
        self.conversations: list[int] = []
        self.lengths = np.zeros(0, dtype=np.int64)  # [S]; the first len(conversations) are in use
        self._rows: dict[int, int] = {}
        self._columns = 0  # room for tokens in a row
        self._widest = 0  # columns that were needed so far: growing step by step costs more than the room
        self.storage = object()  # another one whenever keys and values have moved to other memory
        self._layers = [_Layer() for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))

    def __len__(self) -> int:
        return len(self.conversations)

    def __contains__(self, conversation: int) -> bool:
        return conversation in self._rows

    def rows(self, conversations: Iterable[int]) -> list[int]:
        return [self._rows[c] for c in conversations]

    def join(self, conversations: Sequence[int]) -> None:
        """Give each of these new conversations an empty row."""
        for conversation in conversations:
            self._rows[conversation] = len(self.conversations)
            self.conversations.append(conversation)
        rows = len(self.conversations)
        if rows > len(self.lengths):
            self._allocate(max(rows, len(self.lengths) * 2), self._columns)
        self.lengths[rows - len(conversations) : rows] = 0

    @torch.inference_mode()
    def leave(self, conversations: Iterable[int]) -> None:
        """Forget those of `conversations` that are here."""
        gone = sorted({self._rows.pop(c) for c in conversations if c in self._rows})
        staying = len(self.conversations) - len(gone)
        if not staying:
            self.conversations, self._rows = [], {}
            self._allocate(0, 0)
            return
        left = set(gone)
        holes = [r for r in gone if r < staying]
        movers = [r for r in range(staying, len(self.conversations)) if r not in left]
        self._copy(movers, holes)
        for mover, hole in zip(movers, holes, strict=True):
            self.conversations[hole] = self.conversations[mover]
            self._rows[self.conversations[hole]] = hole
        del self.conversations[staying:]

    def swap(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Exchange the rows `first[i]` and `second[i]`, all of them distinct."""
        self._copy([*first, *second], [*second, *first])
        for a, b in zip(first, second, strict=True):
            self.conversations[a], self.conversations[b] = self.conversations[b], self.conversations[a]
            self._rows[self.conversations[a]], self._rows[self.conversations[b]] = a, b

    def share(self, source: int, targets: Sequence[int], length: int) -> None:
        """Let rows `targets` begin with the first `length` tokens of row `source`."""
        if targets and length:
            at = torch.tensor(targets, device=self.device)
            for layer in self._layers:
                layer.spread(source, at, length)
        self.lengths[list(targets)] = length

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns, unless there is."""
        self._widest = max(self._widest, columns)
        if columns > self._columns:
            self._allocate(max(rows, len(self.lengths)), max(self._widest + 64, 2 * self._columns))
        elif rows > len(self.lengths):
            self._allocate(rows, self._columns)

    def expect(self, rows: torch.Tensor, columns: torch.Tensor, width: int) -> None:
        """Announce where the next pass's tokens go, int64 `[N]` each, and how many columns that takes."""
        self.reserve(0, width)
        for layer in self._layers:
            layer.place = (rows, columns)
            layer.size = (len(self.lengths), self._columns)

    def _copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        if not sources:
            return
        length = int(self.lengths[list(sources)].max())
        at = torch.tensor([sources, targets], device=self.device)
        for layer in self._layers:
            layer.copy(at[0], at[1], length)
        self.lengths[list(targets)] = self.lengths[list(sources)]

    def _allocate(self, rows: int, columns: int) -> None:
        lengths = np.zeros(rows, dtype=np.int64)
        kept = min(rows, len(self.lengths))
        lengths[:kept] = self.lengths[:kept]
        self.lengths, self._columns = lengths, columns
        self.storage = object()
        for layer in self._layers:
            layer.allocate(rows, columns)


class _Layer(DynamicLayer):
    """Keys and values `[S, heads, C, head size]` of one layer."""

    place: tuple[torch.Tensor, torch.Tensor]
    size: tuple[int, int]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.key_buffer = _room(key_states, *self.size)
        self.value_buffer = _room(value_states, *self.size)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in `[1, heads, N, head size]`, and give all there is, `[S, heads, C, head size]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, columns = self.place
        self.key_buffer[rows, :, columns] = key_states[0].transpose(0, 1)
        self.value_buffer[rows, :, columns] = value_states[0].transpose(0, 1)
        return self.key_buffer, self.value_buffer

    def allocate(self, rows: int, columns: int) -> None:
        if not self.is_initialized:
            return
        if not rows:
            self.is_initialized = False  # by hand: before transformers 5.23 `reset` keeps it
            del self.key_buffer, self.value_buffer
            return
        for name in ("key_buffer", "value_buffer"):
            old: torch.Tensor = getattr(self, name)
            new = _room(old, rows, columns)
            new[: len(old), :, : old.shape[2]] = old
            setattr(self, name, new)

    def spread(self, source: int, targets: torch.Tensor, length: int) -> None:
        if not self.is_initialized:  # a layer that looks at another one's keys has none of its own
            return
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[targets, :, :length] = buffer[source, :, :length]

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        if not self.is_initialized:
            return
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[targets, :, :length] = buffer[sources, :, :length]


def _room(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros: a column beyond a row's end has weight 0 in attention, and 0 times what was in memory may be NaN.
    return like.new_zeros((rows, like.shape[1], columns, like.shape[3]))
