"""What a CUDA graph may do and what it does, on the pretended device.

A capture refuses what CUDA refuses while a stream is captured: waiting for the device, copying from or to the host, and
shapes that depend on values. A replay knows no Python: the operations that were seen are done again on the memory that
they were done on, and their results written to where they were. Graphs share a pool, so a replay leaves nothing behind
of what the other graphs have computed. Invariant: what a graph reads must still be there, and not only because the
graph itself holds on to it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from pretend_device import Operation, PretendTensor, each, is_there, observed

Program = Callable[[], torch.Tensor]


class NotCapturable(RuntimeError):
    """What CUDA would have refused while capturing, or could not have replayed."""


class PretendGraphs:
    """Captures programs as `CudaGraphs` does, with the same runs ahead. `results` are those of all that it captured."""

    def __init__(self) -> None:
        self.results: list[torch.Tensor] = []

    def __call__(self, program: Program) -> Program:
        for _ in range(2):
            program()
        graph = _Graph()
        with observed(graph.add):
            result = program()
        graph.end(result)
        self.results.append(result)

        def replay() -> torch.Tensor:
            for other in self.results:
                if other is not result:
                    other.inner.fill_(torch.nan)  # type: ignore[attr-defined]
            graph.replay()
            return result

        return replay


class _Graph:
    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._made: set[int] = set()  # ids of inner tensors, which the operations keep
        self._read: dict[int, weakref.ref[PretendTensor]] = {}

    def add(self, operation: Operation) -> None:
        if operation.waits:
            raise NotCapturable(f"{operation.func}: the host waits for the device, which a captured stream forbids")
        for x in each((operation.args, operation.kwargs)):
            if is_there(x) and id(x.inner) not in self._made:
                self._read[id(x.inner)] = weakref.ref(x)
        for x in _tensors(operation.found):
            if id(x) not in self._read:
                self._made.add(id(x))
        self._operations.append(operation)

    def end(self, result: torch.Tensor) -> None:
        """The operations keep only what is inside: who else holds on to a tensor is seen by its wrapper."""
        self._operations = [
            Operation(o.func, (), {}, o.inner_args, o.inner_kwargs, o.found, False) for o in self._operations
        ]
        gc.collect()

    def replay(self) -> None:
        if any(reference() is None for reference in self._read.values()):
            raise NotCapturable("the graph reads memory that was given back since it was captured")
        for operation in self._operations:
            if operation.func.__name__.startswith("empty"):
                continue
            again = operation.func(*operation.inner_args, **operation.inner_kwargs)
            for new, old in zip(_tensors(again), _tensors(operation.found), strict=True):
                if new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():  # and not a view, nor in place
                    old.copy_(new)


def _tensors(found: Any) -> list[torch.Tensor]:
    return [x for x in each(found) if isinstance(x, torch.Tensor)]
