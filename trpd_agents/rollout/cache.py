"""A key-value cache for a batch of conversations that grow and end at different times.

Every row is a conversation, every column a slot; `valid[R, C]` says which slots of a row hold one of its tokens. Rows
of a lock-step batch are fed the same number of columns, so shorter ones have holes, which attention masks out. Storage
is allocated ahead, so that a decode step writes one column instead of copying the whole cache.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class _GrowingLayer(DynamicLayer):
    """Keys and values `[R, heads, C, head size]` in buffers that double when they are full."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.length = 0
        self.key_buffer = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
        self.value_buffer = value_states.new_empty((*value_states.shape[:2], 0, value_states.shape[3]))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.key_buffer.shape[-2]:
            room = max(2 * self.length, end + 64)
            self.key_buffer = _moved(self.key_buffer, self.length, room)
            self.value_buffer = _moved(self.value_buffer, self.length, room)
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self.keys = self.key_buffer[:, :, :end]
        self.values = self.value_buffer[:, :, :end]
        return self.keys, self.values

    def pack(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep `rows` `[R']`, and of each the slots `columns` `[R', C']`, in that order."""
        assert self.keys is not None and self.values is not None
        self.length = columns.shape[1]
        room = self.length + 64
        self.key_buffer = _moved(self.keys[rows[:, None], :, columns].transpose(1, 2), self.length, room)
        self.value_buffer = _moved(self.values[rows[:, None], :, columns].transpose(1, 2), self.length, room)
        self.keys = self.key_buffer[:, :, : self.length]
        self.values = self.value_buffer[:, :, : self.length]


def _moved(buffer: torch.Tensor, length: int, room: int) -> torch.Tensor:
    wider = buffer.new_empty((*buffer.shape[:2], room, buffer.shape[3]))
    wider[:, :, :length] = buffer[:, :, :length]
    return wider


class ConversationCache:
    """The cache of one lock-step batch. `conversations[r]` owns row r and has `lengths[r]` tokens in it."""

    def __init__(self, conversations: list[int], layers: int, device: torch.device):
        self.conversations = conversations
        self.cache = Cache(layers=[_GrowingLayer() for _ in range(layers)])
        self.valid = torch.zeros(len(conversations), 0, dtype=torch.bool, device=device)

    @property
    def lengths(self) -> torch.Tensor:
        """int64 `[R]`: tokens of each conversation in the cache, which is the position of its next token."""
        return self.valid.sum(1)

    def append(self, valid: torch.Tensor) -> None:
        """Announce columns about to be fed: `valid` bool `[R, W]`."""
        self.valid = torch.cat([self.valid, valid], dim=1)

    def keep(self, conversations: set[int]) -> None:
        """Drop every other conversation, and close the holes of those that stay."""
        rows = torch.tensor(
            [r for r, c in enumerate(self.conversations) if c in conversations], device=self.valid.device
        )
        valid = self.valid[rows]
        width = int(valid.sum(1).max())
        # A stable sort puts each row's real slots first, in order; what is left over in short rows stays marked as a
        # hole.
        columns = torch.sort(~valid, dim=1, stable=True).indices[:, :width]
        for layer in self.cache.layers:
            assert isinstance(layer, _GrowingLayer)
            layer.pack(rows, columns)
        self.valid = valid.gather(1, columns)
        self.conversations = [self.conversations[int(r)] for r in rows]
