"""Recognised benchmarks as text environments: one file per adapter, none of them a dependency.

`BENCHMARKS` routes the part of an id before its first slash to the adapter that plays it. Invariant: nothing of a
benchmark's own package is imported before an environment of it is made, and making one without the package raises a
`UserError` that names the extra to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium


@dataclass(frozen=True)
class Benchmark:
    """One adapter: where it is, and its line in a listing.

    `adapter` is `module:Class` in this package; the class takes what follows the prefix in an id as `task`. `names`
    are ids to show, in which `<...>` stands for a choice of the user; `turns` is the limit by default. `package` is the
    module that the extra installs.
    """

    prefix: str
    extra: str
    package: str
    adapter: str
    names: tuple[str, ...]
    success: str
    turns: str
    expert: bool
    note: str = ""

    def load(self) -> Callable[..., gymnasium.Env[Any, Any]]:
        """The adapter's class."""
        module, _, name = self.adapter.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.prefix: benchmark
    for benchmark in (
        Benchmark(
            "babyai",
            "minigrid",
            "minigrid",
            "babyai:BabyAI",
            ("GoToLocal-v0", "PickupLoc-v0", "Open-v0", "BossLevel-v0"),
            "the mission is done",
            "64; 300 in a maze",
            True,
            "any other BabyAI level of minigrid by its name, too",
        ),
        Benchmark(
            "textworldexpress",
            "textworld-express",
            "textworld_express",
            "textworld_express:TextWorldExpress",
            ("CoinCollector-v0", "TWC-v0", "CookingWorld-v0"),
            "the game says so: a score of 1",
            "50; CookingWorld 100",
            True,
            "needs Java",
        ),
        Benchmark(
            "scienceworld",
            "scienceworld",
            "scienceworld",
            "scienceworld:ScienceWorld",
            ("boil-v0", "<task>-v0"),
            "a score of 100",
            "100",
            True,
            "30 tasks; needs Java; the expert knows one way and falls silent off it",
        ),
        Benchmark(
            "bfcl",
            "bfcl",
            "bfcl_eval",
            "bfcl:MultiTurn",
            ("multi_turn_base-v0", "multi_turn_miss_func-v0", "multi_turn_miss_param-v0", "multi_turn_long_context-v0"),
            "after every request the state and the needed answers are those of the reference",
            "60",
            True,
            "200 tasks each; tools differ from task to task",
        ),
        Benchmark(
            "textworld",
            "textworld",
            "textworld",
            "textworld:TextWorld",
            ("generated", "<path/to/game.z8>"),
            "the game is won",
            "50",
            True,
            "a file is the same game for every seed",
        ),
        Benchmark(
            "alfworld",
            "alfworld",
            "alfworld",
            "alfworld:ALFWorld",
            ("train", "valid_seen", "valid_unseen"),
            "the game is won",
            "50",
            True,
            "its data is downloaded by you: data=DIR, or ALFWORLD_DATA",
        ),
    )
}


def find(env_id: str) -> tuple[Benchmark, str] | None:
    """The benchmark that an id names by its prefix, and the task within it; None for any other id."""
    prefix, slash, task = env_id.partition("/")
    benchmark = BENCHMARKS.get(prefix)
    return (benchmark, task) if slash and benchmark else None


def benchmark_ids() -> list[str]:
    """The ids worth naming, without those that hold a choice of the user's."""
    return [f"{b.prefix}/{name}" for b in BENCHMARKS.values() for name in b.names if "<" not in name]
