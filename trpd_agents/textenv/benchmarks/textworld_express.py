"""TextWorldExpress: `textworldexpress/CookingWorld-v0`, `textworldexpress/TWC-v0`, `textworldexpress/CoinCollector-v0`.

Rules: those of the package, a simulator of text games in Java: find and take a coin in a house of rooms
(CoinCollector); put things where they belong (TWC, text world common sense); find and follow a recipe, and eat the
meal (CookingWorld). Success: the game reports success. Reward: the increase of the game's score, which is 1 in the
end; a negative step is possible. What is hard: exploration behind closed doors, an inventory that may be full, and in
CookingWorld steps that spoil an ingredient for good.
Source: P. Jansen and M.-A. Côté, TextWorldExpress, EACL 2023.
"""

from __future__ import annotations

import json
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.benchmarks.base import BenchmarkEnv, check_choice
from trpd_agents.textenv.benchmarks.java import new_game
from trpd_agents.textenv.benchmarks.packages import require
from trpd_envs.base import Refused

# The package's name of each game, and the most turns by default.
GAMES = {"CoinCollector-v0": ("coin", 50), "TWC-v0": ("twc", 50), "CookingWorld-v0": ("cookingworld", 100)}
SPLITS = {"train": range(1000), "dev": range(10_000, 11_000), "test": range(20_000, 21_000)}  # the package's own seeds
_CLASS = "textworldexpress.runtime.PythonInterface"
_UNKNOWN = "Unknown action"
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_RULES = (
    "You play a text game. Answer with one command each turn, such as: look around, inventory, move north, open door "
    "to north, take coin, put shirt in wardrobe."
)


class TextWorldExpress(BenchmarkEnv):
    """The game `task`. `split`: train, dev or test, 1,000 instances each. `params`: the package's numbers for a game,
    such as `numLocations`, `includeDoors`, `numDistractorItems`, `limitInventorySize`. `max_turns`: 50 by default, 100
    in CookingWorld."""

    def __init__(
        self, task: str, split: str = "train", params: dict[str, int] | None = None, max_turns: int | None = None
    ) -> None:
        self._game, limit = GAMES[check_choice("a game of textworldexpress", task, list(GAMES))]
        self._split = check_choice("split", split, list(SPLITS))
        if not isinstance(params, dict | None) or not all(type(number) is int for number in (params or {}).values()):
            raise UserError(f"params is a mapping from names to whole numbers; found {params!r}")
        self._params = ",".join(f"{key}={number}" for key, number in (params or {}).items())
        super().__init__(limit if max_turns is None else max_turns)
        self._server = self._new_server()

    def start(self) -> str:
        self._seed = self.picked(SPLITS[self._split])
        self._state = self._begin(self._server)
        self._gold = list(self._server.getGoldActionSequence())
        self._history: list[str] = []
        self._stayed: set[int] = set()  # the turns that changed nothing in sight
        self._gained = 0.0
        self.instructions = f"{_RULES}\n{self._server.getTaskDescription()}"
        return self._state["observation"].strip()

    def act(self, action: str) -> str:
        before, self._state = self._state, json.loads(self._server.stepJSON(action))
        self._history.append(action)
        if self._state["look"] == before["look"]:
            self._stayed.add(len(self._history) - 1)
        self._gained = self._state["score"] - before["score"]
        observation = self._state["observation"].strip()
        if self._state["tasksuccess"] or self._state["taskfailure"] or self._state["score"] >= 1:
            self.finish(success=bool(self._state["tasksuccess"] and not self._state["taskfailure"]))
        elif observation.startswith(_UNKNOWN):
            raise Refused(observation)
        return observation

    def reward(self) -> float:
        return self._gained

    def legal_actions(self) -> list[str]:
        """The game's own list of valid actions."""
        return [] if self.over else sorted(self._state["validActions"])

    def expert(self) -> str | None:
        """The next action of the package's solution, after going back to where it was left, if need be.

        Off the solution, the way on is first played in a game of its own from the start; None unless that succeeds in
        the turns left.
        """
        if self.over:
            return None
        done, back = self._followed()
        way = [*back, *self._gold[done:]]
        if not way or len(way) > self.turns_left:
            return None
        on_it = len(self._history) == done
        return way[0] if on_it or self._wins([*self._history, *way]) else None

    def _followed(self) -> tuple[int, list[str]]:
        """How much of the solution has been done, in its order, and the moves that undo those made beside it."""
        done = 0
        beside: list[str] = []
        for turn, action in enumerate(self._history):
            if done < len(self._gold) and action == self._gold[done] and not beside:
                done += 1
            elif turn in self._stayed:
                continue
            elif beside and _opposite(action) == beside[-1]:
                beside.pop()
            elif _opposite(action):
                beside.append(action)
        return done, [_opposite(action) for action in reversed(beside)]

    def _wins(self, actions: list[str]) -> bool:
        server = self._new_server()
        state = self._begin(server)
        for action in actions:
            state = json.loads(server.stepJSON(action))
        return bool(state["tasksuccess"])

    def _begin(self, server: Any) -> dict[str, Any]:
        return json.loads(server.generateNewGameJSON(self._seed, self._split, True))

    def _new_server(self) -> Any:
        what = "textworldexpress/*"
        constants = require("textworld_express.constants", "textworld-express", what)
        server = new_game(constants.JAR_PATH, _CLASS, "textworld-express", what)
        if problem := server.load(self._game, self._params):
            raise UserError(f"textworldexpress refuses params={self._params!r}: {problem}")
        return server


def _opposite(action: str) -> str:
    """The move that undoes a move; empty for any other action."""
    verb, _, direction = action.partition(" ")
    return f"move {_OPPOSITE[direction]}" if verb == "move" and direction in _OPPOSITE else ""
