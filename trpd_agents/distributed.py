"""Data parallelism: the same program in several processes, each with its share of the episodes.

Every rank runs the same code on its own shard and they meet in sums (gradients, denominators, counts) and gathers
(results). Communication is torch.distributed's gloo, so ranks compute on the CPU. Rank 0 is the calling process; the
others are started here, live only as long as it does, and get their work as JSON, so a caller's script is never
imported a second time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trpd_agents.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among `size` ranks. Every method is a meeting point: all ranks must call it."""

    rank: int = 0
    size: int = 1

    def shard(self, items: Sequence[T]) -> list[T]:
        """This rank's share: every `size`-th item."""
        return list(items[self.rank :: self.size])

    def unshard(self, items: Sequence[T]) -> list[T]:
        """Undo `shard`: all ranks' items in the original order, on every rank."""
        shards = self.gather(list(items))
        width = max((len(s) for s in shards), default=0)
        return [shard[i] for i in range(width) for shard in shards if i < len(shard)]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, *values: float) -> list[float]:
        """Sums over ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks. A rank without a gradient contributes zero."""
        if self.size == 1:
            return
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        start = 0
        for p in parameters:
            assert p.grad is not None
            p.grad.copy_(flat[start : start + p.numel()].view_as(p))
            start += p.numel()


def launch(size: int, target: str, payload: dict[str, Any], main: Callable[[World], T]) -> T:
    """Run `main(World(0, size))` here, and `target(World(rank, size), payload)` in `size - 1` other processes.

    Args:
        target: `module:function`, importable anywhere.
        payload: plain JSON data.

    Raises:
        RunError: another rank died; the message ends with what it printed.
    """
    if size == 1:
        return main(World())
    with tempfile.TemporaryDirectory(prefix="trpd-ranks-") as folder:
        with _children(size, target, payload, Path(folder)) as children:
            try:
                _wait_for_start(children, Path(folder))
                _join(0, size, Path(folder) / "store")
                return main(World(0, size))
            except RuntimeError as error:  # what gloo raises when a peer is gone
                for rank, child in children.items():
                    if _died(child):
                        raise _obituary(rank, children, Path(folder)) from error
                raise
            finally:
                if dist.is_initialized():
                    dist.destroy_process_group()


def _wait_for_start(children: Mapping[int, subprocess.Popen[bytes]], folder: Path) -> None:
    """Until every child is about to join: a child that cannot even start would leave the others waiting for it."""
    while waiting := [rank for rank in children if not (folder / f"rank{rank}.started").exists()]:
        for rank in waiting:
            if children[rank].poll() is not None:
                raise _obituary(rank, children, folder)
        time.sleep(0.05)


def _obituary(rank: int, children: Mapping[int, subprocess.Popen[bytes]], folder: Path) -> RunError:
    tail = (folder / f"rank{rank}.log").read_text(errors="replace").strip()[-2000:]
    return RunError(f"rank {rank} of {len(children) + 1} died with exit code {children[rank].returncode}:\n{tail}")


def _died(child: subprocess.Popen[bytes]) -> bool:
    try:
        return child.wait(timeout=2) != 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _children(
    size: int, target: str, payload: dict[str, Any], folder: Path
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    children: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for rank in range(1, size):
            with (folder / f"rank{rank}.log").open("wb") as log:
                command = [sys.executable, "-m", "trpd_agents.distributed"]
                arguments = [str(rank), str(size), str(folder / "store"), target]
                # A session of its own: Ctrl-C reaches rank 0 alone, which decides for all where to stop.
                child = subprocess.Popen(
                    [*command, *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
            children[rank] = child
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is dead already; waiting for its start will say why
                child.stdin.write(json.dumps(payload).encode() + b"\n")
                child.stdin.flush()
        yield children
    finally:
        for child in children.values():
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # the child's watch on it ends the child
        for child in children.values():
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _join(rank: int, size: int, store: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(minutes=30),
    )


def _child() -> None:
    rank, size, store, target = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    payload = json.loads(sys.stdin.readline())
    finished = threading.Event()

    def watch() -> None:
        sys.stdin.read()  # returns when rank 0 closes the pipe or dies
        if not finished.is_set():
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    module, function = target.split(":")
    (store.parent / f"rank{rank}.started").touch()
    _join(rank, size, store)
    getattr(importlib.import_module(module), function)(World(rank, size), payload)
    finished.set()
    dist.destroy_process_group()


if __name__ == "__main__":
    _child()
