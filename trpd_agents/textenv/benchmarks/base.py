"""What the adapters share: an episode is one of a benchmark's numbered instances, chosen by the seed.

Invariant: seed s plays instance s modulo their number, so that consecutive seeds play different instances and as many
seeds as instances play each of them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from trpd_agents.errors import UserError
from trpd_agents.textenv.spec import did_you_mean
from trpd_envs.base import TextEnv

T = TypeVar("T")


class BenchmarkEnv(TextEnv):
    """A `TextEnv` that knows the seed of its episode. `picked` chooses by it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self._given_seed = seed
        return super().reset(seed=seed, options=options)

    def episode_seed(self) -> int:
        """The seed that `reset` was given; drawn from `self.np_random` where it was given none."""
        return int(self.np_random.integers(2**31)) if self._given_seed is None else self._given_seed

    def picked(self, instances: Sequence[T]) -> T:
        """The instance that this episode's seed plays."""
        return instances[self.episode_seed() % len(instances)]


def check_choice(what: str, value: Any, known: Sequence[str]) -> str:
    """`value` if it is one of `known`, else `UserError` with the nearest of them."""
    if value not in known:
        raise UserError(f"{what} is one of {', '.join(known)}; found {value!r}.{did_you_mean(str(value), known)}")
    return str(value)
