"""BabyAI, played in words: `babyai/GoToLocal-v0` is minigrid's `BabyAI-GoToLocal-v0`.

Rules: an agent in a grid of rooms gets a mission ("put the red ball next to a box, then open the grey door") and acts
by single words; it sees only what is before it (`babyai_view`). Success: minigrid says that the mission is done; this
ends the episode with reward 1 (minigrid's own reward shrinks with time and is not used). What is hard: the view is
partial and turns with the agent, and missions of the larger levels have parts in an order.
Source: M. Chevalier-Boisvert et al., BabyAI, ICLR 2019.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import gymnasium

from trpd_agents.errors import UserError
from trpd_agents.textenv.benchmarks.babyai_view import describe, name
from trpd_agents.textenv.benchmarks.base import BenchmarkEnv
from trpd_agents.textenv.benchmarks.packages import require
from trpd_agents.textenv.spec import did_you_mean
from trpd_envs.base import Refused

# In the order of minigrid's own action numbers.
WORDS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")
_LEFT, _RIGHT, _FORWARD, _PICK_UP, _DROP, _TOGGLE, _DONE = range(len(WORDS))
_ASK = f"Answer with one of: {', '.join(WORDS)}."
_RULES = (
    "You are in a grid of rooms and see only what lies before you. Each turn do one thing: turn left or turn right on "
    "the spot; go forward one step; pick up the object directly ahead of you (you can carry one); drop what you carry "
    "onto the free cell directly ahead; toggle a door directly ahead (a locked one needs the key of its colour) or a "
    "box, which replaces it by what is in it."
)
# Most turns by default: of a level within one room, and of a maze of nine.
_ONE_ROOM, _MAZE = 64, 300


class BabyAI(BenchmarkEnv):
    """The level `task` of minigrid, without its prefix `BabyAI-`. `max_turns`: by default 64, in a maze 300."""

    def __init__(self, task: str, max_turns: int | None = None):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # minigrid imports pygame, which greets
        require("minigrid", "minigrid", f"babyai/{task}")
        self._bots = require("minigrid.utils.baby_ai_bot", "minigrid", f"babyai/{task}")
        levels = [i.removeprefix("BabyAI-") for i in gymnasium.registry if i.startswith("BabyAI-")]
        if task not in levels:
            raise UserError(
                f"minigrid has no BabyAI level {task!r}.{did_you_mean(task, levels)} Its levels: {', '.join(levels)}."
            )
        # A level's own step limit ends episodes without a verdict on the turn limit stated here: see `start`.
        self._level: Any = gymnasium.make(f"BabyAI-{task}", disable_env_checker=True).unwrapped
        rooms = getattr(self._level, "num_rows", 1) * getattr(self._level, "num_cols", 1)
        super().__init__((_ONE_ROOM if rooms == 1 else _MAZE) if max_turns is None else max_turns)

    def start(self) -> str:
        with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints which missions it drew in vain
            self._level.reset(seed=self.episode_seed())
        self._level.max_steps = self.max_turns + 1
        self.mission = self._level.mission
        self.instructions = f"{_RULES} {_ASK}\nYour mission: {self.mission}."
        self._bot: Any = None
        return f"Mission: {self.mission}.\n{describe(self._level)}"

    def view(self) -> str:
        return describe(self._level)

    def act(self, action: str) -> str:
        word = " ".join(action.split()).lower().removesuffix(".") if len(action) < 100 else ""
        if word not in WORDS:
            raise Refused(_ASK)
        number = WORDS.index(word)
        before = self._situation()
        _, reward, terminated, _, _ = self._level.step(self._level.actions(number))
        self._tell_bot(number)
        if terminated:
            self.finish(success=reward > 0)
            return "The mission is done." if self.success else "The mission has failed."
        if self._situation() == before:
            self._bot = None  # if this was its advice, it is mistaken about the world
            raise Refused(self._why_not(number))
        return describe(self._level)

    def close(self) -> None:
        self._level.close()

    def expert(self) -> str | None:
        """The next action of minigrid's bot, which knows the mission and remembers what it has seen.

        After something that the bot cannot cope with, a new one looks afresh; None where that fails too.
        """
        if self.over:
            return None
        if self._bot is None and not self._new_bot():
            return None
        return None if self._advice == _DONE else WORDS[self._advice]

    def legal_actions(self) -> list[str]:
        """The actions that would change something now."""
        if self.over:
            return []
        ahead, carrying = self._ahead(), self._level.carrying
        possible = {
            _LEFT: True,
            _RIGHT: True,
            _FORWARD: ahead is None or ahead.can_overlap(),
            _PICK_UP: ahead is not None and ahead.can_pickup() and carrying is None,
            _DROP: ahead is None and carrying is not None,
            _TOGGLE: ahead is not None and (ahead.type == "box" or (ahead.type == "door" and self._opens(ahead))),
        }
        return [WORDS[number] for number, can in possible.items() if can]

    def _new_bot(self) -> bool:
        try:
            self._bot = self._bots.BabyAIBot(self._level)
            self._plan_what_is_left()
            self._advice = int(self._bot.replan())
        except Exception:  # the bot asserts what its own plans need, and fails on positions it does not expect
            self._bot = None
        return self._bot is not None

    def _tell_bot(self, number: int) -> None:
        if self._bot is None:
            return
        try:
            self._advice = int(self._bot.replan(self._level.actions(number)))
        except Exception:
            self._bot = None

    def _plan_what_is_left(self) -> None:
        """A bot plans the whole mission: take the parts that are done out of the plan of one that begins late."""
        self._bot.stack.clear()
        for part in reversed(_open_parts(self._level.instrs)):  # a stack: what is pushed last is done first
            self._bot._process_instr(part)

    def _ahead(self) -> Any:
        return self._level.grid.get(*self._level.front_pos)

    def _opens(self, door: Any) -> bool:
        key = self._level.carrying
        return not door.is_locked or (key is not None and key.type == "key" and key.color == door.color)

    def _situation(self) -> tuple[Any, ...]:
        """All that one action can change."""
        level, ahead = self._level, self._ahead()
        state = None if ahead is None else ahead.encode()
        return tuple(level.agent_pos), level.agent_dir, id(level.carrying), id(ahead), state

    def _why_not(self, number: int) -> str:
        ahead = self._ahead()
        there = "nothing" if ahead is None else name(ahead)
        if number == _DONE:
            return "The mission is not done yet."
        return f"You cannot {WORDS[number]} here: directly ahead is {there}."


def _open_parts(instruction: Any) -> list[Any]:
    """The parts of a mission that are not done yet, in the order in which they are to be done."""
    if not hasattr(instruction, "instr_a"):
        return [instruction]
    parts = [(instruction.a_done, instruction.instr_a), (instruction.b_done, instruction.instr_b)]
    if type(instruction).__name__ == "AfterInstr":
        parts.reverse()
    return [part for verdict, whole in parts if verdict != "success" for part in _open_parts(whole)]
