"""An environment that does what its arguments say, for testing what drives it."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium


class Scripted(gymnasium.Env):
    """Answers each action with an observation of some length, and ends, stalls or falls over when told to.

    `fail` is "reset", "step" or "" and happens in the first `failures` episodes of each seed in `bad_seeds` (all seeds
    if empty). Counting is by `tag`, over all instances in this process. An episode ends after `length + seed % spread`
    turns; it succeeds when the seed is even.
    """

    instructions = "Say something."
    attempts: ClassVar[dict[tuple[str, int], int]] = {}
    opened: ClassVar[dict[str, int]] = {}
    closed: ClassVar[dict[str, int]] = {}

    def __init__(
        self,
        length: int = 3,
        spread: int = 3,
        fail: str = "",
        failures: int = 1,
        bad_seeds: tuple[int, ...] = (),
        tag: str = "",
        seconds: float = 0.0,
        max_turns: int = 20,
        words: int = 3,
        truncate: bool = False,
    ):
        self.length, self.spread, self.words = length, spread, words
        self.fail, self.failures, self.bad_seeds = fail, failures, tuple(bad_seeds)
        self.tag, self.seconds, self.truncate = tag, seconds, truncate
        self.max_turns = max_turns
        self.opened[tag] = self.opened.get(tag, 0) + 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.turn = int(seed or 0), 0
        attempt = self.attempts.get((self.tag, self.seed), 0)
        self.attempts[self.tag, self.seed] = attempt + 1
        self.falls_over = attempt < self.failures and (not self.bad_seeds or self.seed in self.bad_seeds)
        self.broken("reset")
        return f"seed {self.seed} says <|im_end|> " + "go " * (self.words + self.seed % 4), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        if self.turn == 2:
            self.broken("step")
        time.sleep(self.seconds)
        over = self.turn >= self.length + self.seed % self.spread
        success = over and self.seed % 2 == 0
        info = {"success": success, "ok": self.turn % 2 == 1}
        observation = f"turn {self.turn}: {len(action)} characters\n" + "and " * (self.turn % 3)
        return observation, 0.25, over and not self.truncate, over and self.truncate, info

    def broken(self, where: str) -> None:
        if self.falls_over and self.fail == where:
            raise RuntimeError(f"{where} fell over")

    def expert(self) -> str:
        return f"word {self.turn}"

    def close(self) -> None:
        self.closed[self.tag] = self.closed.get(self.tag, 0) + 1
