"""The decoding pass as a fixed program: captured once for a shape, replayed for every token.

A token of a small batch costs a GPU less time than Python needs to ask for it; a CUDA graph asks once. A graph knows
addresses, not values, so everything that changes lives in tensors that stay: the tokens, and the column each goes to.
Shapes are rounded up, so that few graphs serve all batches. Invariant: rows that are only there for roundness write
beyond the end of their conversation, where nothing is ever seen, and what they compute is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trpd_agents.conversation_cache import ConversationCache
from trpd_agents.feeding import Block, Feed

WIDTH = 256  # columns that a graph's attention reads are a multiple of this
ROWS = 64  # above this many, rows are rounded up to a multiple of it, below to a power of two

Pass = Callable[[torch.Tensor, Feed], torch.Tensor]  # ids [R] and where they go -> hidden states [R, H]
Program = Callable[[], torch.Tensor]
Capture = Callable[[Program], Program]


@dataclass(frozen=True)
class _Captured:
    ids: torch.Tensor  # int64 [R]
    columns: torch.Tensor  # int64 [R]
    program: Program  # kept for its tensors: a graph reads their memory without holding on to it
    replay: Program  # the hidden states [R, H] of what is in ids and columns now


class CapturedDecode:
    """Runs `model_pass` for one token of each of the first rows of `cache`, by replaying what `capture` made of it."""

    def __init__(self, model_pass: Pass, cache: ConversationCache, dtype: torch.dtype, capture: Capture):
        self._pass = model_pass
        self._cache = cache
        self._dtype = dtype
        self._capture = capture
        self._storage: object = None
        self._captured: dict[tuple[int, int], _Captured] = {}

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states `[R, H]` of `ids` `[R]`, the next tokens of the first R rows; valid until the next call."""
        rows = rounded(len(ids))
        self._cache.reserve(rows, 0)
        lengths = self._cache.lengths[:rows]
        self._cache.reserve(rows, int(lengths.max()) + 1)
        width = -(-(int(lengths[: len(ids)].max()) + 1) // WIDTH) * WIDTH
        self._cache.reserve(rows, width)
        if self._storage is not self._cache.storage:
            self._captured.clear()  # their addresses are no longer the cache's
            self._storage = self._cache.storage
        captured = self._captured.get((rows, width))
        if captured is None:
            captured = self._captured[rows, width] = self._make(rows, width, lengths)
        captured.ids[: len(ids)] = ids
        captured.columns.copy_(torch.from_numpy(self._cache.lengths[:rows]))
        return captured.replay()[: len(ids)]

    def _make(self, rows: int, width: int, lengths: np.ndarray) -> _Captured:
        device = self._cache.device
        ids = torch.zeros(rows, dtype=torch.int64, device=device)
        columns = torch.from_numpy(lengths.copy()).to(device)  # trying it out must not write over anything either
        everything = torch.arange(rows, device=device)

        def program() -> torch.Tensor:
            # Made anew each time, so that what is seen is worked out from the columns there are then. Which column is
            # the oldest will change: all are read, and a layer's window is in its mask alone.
            all_ = slice(0, rows)
            block = Block(all_, all_, None, columns[:, None], oldest=0, columns=width, dtype=self._dtype)
            return self._pass(ids, Feed(list(range(rows)), everything, columns, [block], width))

        return _Captured(ids, columns, program, self._capture(program))


class CudaGraphs:
    """Captures programs as CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program) -> Program:
        # As torch.cuda.graph wants it: what a kernel allocates on its first runs is allocated before, on a side stream.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                program()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: an update beside the rollout may allocate memory meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = program()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay


def rounded(rows: int) -> int:
    """How many rows the graph has that decodes `rows` of them."""
    return 1 << (rows - 1).bit_length() if rows <= ROWS else -(-rows // ROWS) * ROWS
