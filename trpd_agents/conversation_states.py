"""What a model remembers of conversations: transformers' own caches, put together from single conversations and taken
apart again.

An attention layer remembers keys and values of every token, a recurrent one a state of fixed size. Side by side, the
keys of shorter conversations are filled up on the left and masked. Tokens are never filled up, since a recurrent layer
would remember that: all conversations side by side are given equally many. Invariant: each token gets the state that
its conversation alone would give it, but for rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from trpd_agents.feeding import TOKENS

if TYPE_CHECKING:
    from trpd_agents.models import LanguageModel

KNOWN = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
KEYS, VALUES, CONVOLUTION, RECURRENT = "keys", "values", "convolution", "recurrent"

LayerState = dict[tuple[str, int], torch.Tensor]
"""By its kind and number: of keys and values `[1, heads, length, D]`, of a recurrent layer's states `[1, ...]`."""


@dataclass(frozen=True)
class Memory:
    """What is remembered of a conversation of `length` tokens, by layer. Nothing in it is ever changed."""

    length: int
    layers: tuple[LayerState, ...]


class SideBySide(Protocol):
    """Conversations that go on together; `lengths`, in tokens, grow with what they are given."""

    lengths: list[int]

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states `[R, n, H]` of the tokens `ids` int64 `[R, n]` that come next in each."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, which become the rows 0, 1, ..."""
        ...

    def memory(self, row: int) -> Any:
        """What is remembered of one of them now."""
        ...


class Remembered:
    """Conversations side by side in one cache of transformers, begun by None or going on from a `Memory` each."""

    def __init__(self, lm: LanguageModel, memories: Sequence[Memory | None]):
        self.lm = lm
        self.lengths = [0 if memory is None else memory.length for memory in memories]
        self._cache = DynamicCache(config=lm.model.config)
        self._cache.layers = [_without_window(layer) for layer in self._cache.layers]
        accepted = inspect.signature(lm.model.base_model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self._told_positions = "position_ids" in accepted
        parts = zip(*(memory.layers for memory in memories if memory is not None), strict=True)
        for layer, states in zip(self._cache.layers, parts, strict=False):
            _fill(layer, states, max(self.lengths))

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        device, new, width = ids.device, ids.shape[1], max(self.lengths)
        lengths = torch.tensor(self.lengths, device=device)[:, None]
        arguments: dict[str, Any] = {self._cache_name: self._cache}
        if self._told_positions:
            arguments["position_ids"] = lengths + torch.arange(new, device=device)
        if min(self.lengths) < width:
            arguments["attention_mask"] = (torch.arange(width + new, device=device) >= width - lengths).long()
        found = self.lm.model.base_model(input_ids=ids, use_cache=True, **arguments)
        self.lengths = [length + new for length in self.lengths]
        hidden: torch.Tensor = found.last_hidden_state
        return hidden

    def keep(self, rows: Sequence[int]) -> None:
        width = max(self.lengths)
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.lm.device)
        for layer in self._cache.layers:
            if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
                columns = slice(width - max(self.lengths), None)
                layer.keys, layer.values = layer.keys[index, ..., columns, :], layer.values[index, ..., columns, :]
            if isinstance(layer, LinearAttentionLayer):
                for states in (layer.conv_states, layer.recurrent_states):
                    states.update({i: state[index] for i, state in states.items() if state is not None})

    def memory(self, row: int) -> Memory:
        return Memory(self.lengths[row], tuple(_taken(layer, row, self.lengths[row]) for layer in self._cache.layers))


class EncodedAgain:
    """Conversations side by side of a model that goes on from no cache that is known here: of each all tokens are kept,
    and encoded again whenever something follows them."""

    def __init__(self, lm: LanguageModel, memories: Sequence[list[int] | None]):
        self.lm = lm
        self._said = [list(memory or ()) for memory in memories]

    @property
    def lengths(self) -> list[int]:
        return [len(said) for said in self._said]

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        self._said = [said + new for said, new in zip(self._said, ids.tolist(), strict=True)]
        sequences = [np.array(said) for said in self._said]
        found: dict[int, torch.Tensor] = {}
        for group in self.lm.batches(sequences, TOKENS):
            hidden, rows = self.lm.encode([sequences[i] for i in group])
            for i, row in zip(group, rows, strict=True):
                found[i] = hidden[torch.from_numpy(row[-ids.shape[1] :]).to(hidden.device)]
        return torch.stack([found[i] for i in range(len(sequences))])

    def keep(self, rows: Sequence[int]) -> None:
        self._said = [self._said[row] for row in rows]

    def memory(self, row: int) -> list[int]:
        return list(self._said[row])


def advance(
    kind: type[Remembered] | type[EncodedAgain],
    lm: LanguageModel,
    memories: Sequence[Any],
    feeds: Sequence[Sequence[int]],
    tails: Sequence[int],
) -> tuple[list[torch.Tensor], list[Any]]:
    """Take conversations further by feeds of any lengths, without padding and in few passes.

    Those that begin go side by side by as many tokens as the shortest of their feeds has, then the others by theirs.
    What is left differs in length: it is fed in powers of two, the largest first, each to those whose rest has it.

    Args:
        memories: what is remembered of each, None of one that begins.
        tails: of how many of each feed's last tokens states are wanted, at most as many as it has.

    Returns:
        The hidden states `[tails[i], H]` of each, `[0]` where none are wanted, and what is remembered after that.
    """
    parts: list[list[torch.Tensor]] = [[] for _ in feeds]
    after = list(memories)
    left = [len(feed) for feed in feeds]

    def feed_all(rows: Sequence[int], size: int) -> None:
        side_by_side = kind(lm, [after[i] for i in rows])
        width = max(1, TOKENS // len(rows))
        for step in [width] * (size // width) + [size % width] * (size % width > 0):
            ids = [feeds[i][len(feeds[i]) - left[i] :][:step] for i in rows]
            for i, states in zip(rows, side_by_side.feed(torch.tensor(ids, device=lm.device)), strict=True):
                if tails[i] > left[i] - step:
                    parts[i].append(states[max(0, left[i] - tails[i]) :])
                left[i] -= step
        for row, i in enumerate(rows):
            after[i] = side_by_side.memory(row)

    fed = [i for i, feed in enumerate(feeds) if feed]
    for rows in ([i for i in fed if memories[i] is None], [i for i in fed if memories[i] is not None]):
        if rows:
            feed_all(rows, min(left[i] for i in rows))
    for power in reversed(range(max(left, default=0).bit_length())):
        if rows := [i for i in fed if left[i] >> power & 1]:
            feed_all(rows, 1 << power)
    return [torch.cat(states) if states else torch.empty(0, device=lm.device) for states in parts], after


def _without_window(layer: Any) -> Any:
    """A layer of a cache that keeps what `layer` keeps and also what is beyond its window; masks know the window.

    Raises:
        NotImplementedError: a kind of layer that is not known here.
    """
    if type(layer) is DynamicSlidingWindowLayer:
        return DynamicLayer()
    if type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
        return LinearAttentionAndFullAttentionLayer(number_of_states=layer.number_of_states)
    # What is of neither kind holds nothing: it stands for a layer that needs no memory.
    if isinstance(layer, (CacheLayerMixin, LinearAttentionCacheLayerMixin)) and type(layer) not in KNOWN:
        raise NotImplementedError(f"a cache with {type(layer).__name__}")
    return layer


def _fill(layer: Any, states: Sequence[LayerState], width: int) -> None:
    """Put what is remembered of each conversation into an empty layer, in `width` columns."""
    together = {
        (kind, i): torch.cat([_widened(s[kind, i], width) if kind in (KEYS, VALUES) else s[kind, i] for s in states])
        for kind, i in states[0]
    }
    for (kind, i), state in together.items():
        if kind == KEYS:
            layer.update(state, together[VALUES, i])
        elif kind == CONVOLUTION:
            layer.update_conv_state(state, state_idx=i)
        elif kind == RECURRENT:
            layer.update_recurrent_state(state, state_idx=i)


def _widened(state: torch.Tensor, width: int) -> torch.Tensor:
    return pad(state, (0, 0, width - state.shape[-2], 0))


def _taken(layer: Any, row: int, length: int) -> LayerState:
    """Copies of what a layer remembers of the conversation in `row`."""
    found: LayerState = {}
    if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
        found |= {(KEYS, 0): layer.keys[row, ..., -length:, :], (VALUES, 0): layer.values[row, ..., -length:, :]}
    if isinstance(layer, LinearAttentionLayer):
        found |= {(CONVOLUTION, i): state[row] for i, state in layer.conv_states.items() if state is not None}
        found |= {(RECURRENT, i): state[row] for i, state in layer.recurrent_states.items() if state is not None}
    return {key: state[None].clone() for key, state in found.items()}
