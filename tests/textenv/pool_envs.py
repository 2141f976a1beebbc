"""Environments that misbehave as their arguments say, for testing what plays them."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from trpd_envs import ToolEnv, tool


def hang_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(60)


def crunch() -> None:
    sum(itertools.repeat(0, 10**11))  # one call that looks at no signal and lets no other thread run


def hog() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 24))


MISCHIEF: dict[str, Any] = {
    "sleep": lambda: time.sleep(60),
    "hang_blocked": hang_blocked,
    "crunch": crunch,
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "hog": hog,
    "raise": lambda: 1 / 0,
    "sys_exit": lambda: sys.exit(1),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "print": lambda: print("noise" * 1000, flush=True),
    "slow": lambda: time.sleep(0.4),
}


class Odd(gymnasium.Env[str, str]):
    """Observes numbers from the process's global generators and its seed; ends after `3 + seed % 3` turns.

    In episodes of the `bad` seeds it does `what` at its second turn ("step"), in its reset or in its expert, unless it
    has done so `times` times before, which it finds out from files in `folder`. It leaves its process id there.
    """

    instructions = "Say something."
    tools = ()
    max_turns = 20

    def __init__(
        self,
        what: str = "",
        where: str = "step",
        bad: tuple[int, ...] = (),
        folder: str = "",
        times: int = 99,
        honest: bool = True,
    ):
        self.what, self.where, self.bad, self.folder, self.times = what, where, tuple(bad), folder, times
        self.honest = honest  # whether its seed decides what it observes
        if folder:
            (Path(folder) / f"pid-{os.getpid()}").touch()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.seed, self.turn, self.said = int(seed or 0), 0, ""
        self.misbehave("reset")
        return self.observation(), {"hint": f"hint of {self.seed}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        self.said += action
        if self.turn == 2:
            self.misbehave("step")
        over = self.turn >= 3 + self.seed % 3
        return self.observation(), 0.5, over, False, {"success": over and self.seed % 2 == 0}

    def observation(self) -> str:
        noise = "" if self.honest else f" {os.urandom(4).hex()}"
        return f"{self.seed}.{self.turn} {len(self.said)} {random.random():.6f} {np.random.rand():.6f}{noise}"

    def expert(self) -> str:
        self.misbehave("expert")
        return f"go {self.turn}"

    def legal_actions(self) -> list[str]:
        return ["go", "stay"]

    def misbehave(self, where: str) -> None:
        if where != self.where or self.seed not in self.bad:
            return
        if self.folder:
            done = len(list(Path(self.folder).glob(f"{self.seed}-*")))
            if done >= self.times:
                return
            (Path(self.folder) / f"{self.seed}-{done}").touch()
        MISCHIEF[self.what]()


class Workshop(ToolEnv):
    """Its tools misbehave."""

    def start(self) -> str:
        return "Use a tool."

    @tool
    def do(self, what: str) -> str:
        """Do something."""
        MISCHIEF[what]()
        self.finish(success=True)
        return "Done."


class Greedy(Odd):
    """Keeps what it gets, and takes longer actions than most."""

    max_action_length = 5000

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        _, *rest = super().step(action)
        return f"{len(action)} characters", *rest
