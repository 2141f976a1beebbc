"""ScienceWorld: 30 tasks of school science in a house of ten rooms, `scienceworld/boil-v0` and so on.

Rules: those of the package, a simulator in Java of substances, heat, electricity and living things. Success: a score
of 100 of 100. Reward: the increase of the score, over 100; a negative score, from focusing on the wrong thing, ends
the episode as a failure. What is hard: long horizons, hundreds of valid actions at a time, and a first choice
("focus on") that cannot be taken back.
Source: R. Wang et al., ScienceWorld, EMNLP 2022.
"""

from __future__ import annotations

from typing import Any

from trpd_agents.textenv.benchmarks.base import BenchmarkEnv, check_choice
from trpd_agents.textenv.benchmarks.java import new_game
from trpd_agents.textenv.benchmarks.packages import require
from trpd_envs.base import Refused

SPLITS = ("train", "dev", "test")
_CLASS = "scienceworld.runtime.pythonapi.PythonInterface"
_UNKNOWN = "No known action matches"
# What is the same in every episode of a process.
_VARIATIONS: dict[tuple[str, str], list[int]] = {}
_SOLUTIONS: dict[tuple[str, int, str], list[str]] = {}
_RULES = (
    "You are in a house and do science. Answer with one command each turn, such as: look around, inventory, open door "
    "to kitchen, go to kitchen, pick up OBJ, put OBJ in OBJ, activate OBJ, use OBJ on OBJ, focus on OBJ, examine OBJ, "
    "wait; the command help lists all of them."
)


class ScienceWorld(BenchmarkEnv):
    """The task `task`, such as `boil-v0`, in the variation of the `split` (train, dev, test) that the seed picks.

    `simplifications`: the package's own words, separated by commas, such as `easy` or `openDoors,teleportAction`.
    """

    def __init__(self, task: str, split: str = "train", simplifications: str = "", max_turns: int = 100) -> None:
        what = f"scienceworld/{task}"
        self._task = check_choice("a task of scienceworld", task, [f"{name}-v0" for name in _task_names(what)])[:-3]
        self._split = check_choice("split", split, SPLITS)
        self._simplifications = simplifications
        super().__init__(max_turns)
        self._server = self._new_world()
        known = ["easy", *self._server.getPossibleSimplifications().split(", ")]
        for word in filter(None, simplifications.split(",")):
            check_choice("a simplification of scienceworld", word, known)

    def start(self) -> str:
        variations = _variations(self._server, self._task, self._split)
        self._variation = self.picked(variations)
        self._server.load(self._task, self._variation, self._simplifications, False)
        self._server.reset()
        self._history: list[tuple[str, bool]] = []  # actions, and whether they were refused
        self._gold: list[str] | None = None
        self._score = self._gained = 0.0
        self.instructions = f"{_RULES}\n{self._server.getTaskDescription()}"
        return self._server.step("look around").strip()

    def act(self, action: str) -> str:
        observation = self._server.step(action).strip()
        score = float(self._server.getScore())
        self._gained, self._score = score - self._score, score
        if self._server.getCompleted() or score < 0:
            self.finish(success=round(100 * score) == 100)
        refused = observation.startswith(_UNKNOWN)
        self._history.append((action, refused))
        if refused and not self.over:
            raise Refused(observation)
        return observation

    def reward(self) -> float:
        return self._gained

    def legal_actions(self) -> list[str]:
        """The package's list of actions that would be accepted and combine things that are here: often hundreds."""
        return [] if self.over else sorted(set(self._server.getValidActionObjectCombinations()))

    def expert(self) -> str | None:
        """The next action of the package's solution while what was done so far is its beginning, else None.

        The world goes on by itself (things heat, plants grow), so a solution that was left cannot be taken up again.
        """
        if self.over:
            return None
        if self._gold is None:
            self._gold = self._solution()
        done = 0
        for action, refused in self._history:
            if done < len(self._gold) and action == self._gold[done]:
                done += 1
            elif not refused:  # what is refused takes no time
                return None
        return self._gold[done] if 0 < len(self._gold) - done <= self.turns_left else None

    def _solution(self) -> list[str]:
        """The package's solution of this variation. It takes seconds to find, so a second world looks for it, and only
        when it is asked for."""
        key = (self._task, self._variation, self._simplifications)
        if key not in _SOLUTIONS:
            world = self._new_world()
            world.load(self._task, self._variation, self._simplifications, True)
            _SOLUTIONS[key] = list(world.getGoldActionSequence())
        return _SOLUTIONS[key]

    def _new_world(self) -> Any:
        what = f"scienceworld/{self._task}-v0"
        archive = require("scienceworld.constants", "scienceworld", what).JAR_PATH
        return new_game(archive, _CLASS, "scienceworld", what)


def _variations(world: Any, task: str, split: str) -> list[int]:
    """The numbers of the variations in a split; the package tells them once it has loaded the task."""
    if (task, split) not in _VARIATIONS:
        world.load(task, 0, "", False)
        _VARIATIONS[task, split] = list(getattr(world, f"getVariations{split.capitalize()}")())
    return _VARIATIONS[task, split]


def _task_names(what: str) -> list[str]:
    return list(require("scienceworld.constants", "scienceworld", what).ID2TASK.values())
