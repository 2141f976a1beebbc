"""ALFWorld: household tasks in text, `alfworld/train`, `alfworld/valid_seen` and `alfworld/valid_unseen`.

Rules: those of the package's text games: go to furniture, open it, take things, clean, heat or cool them, put them
somewhere; the task is stated in the first observation. Success: the goal is reached; this ends the episode with
reward 1. What is hard: things have to be looked for, and a room holds dozens of places.
The games are data that the package does not hold: `alfworld-download` fetches them.
Source: M. Shridhar et al., ALFWorld, ICLR 2021.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.benchmarks.base import check_choice
from trpd_agents.textenv.benchmarks.packages import require
from trpd_agents.textenv.benchmarks.textworld import TextWorldGame

SPLITS = ("train", "valid_seen", "valid_unseen")
VARIABLE = "ALFWORLD_DATA"
_FOLDER = "json_2.1.1"
_GAME = "game.tw-pddl"
_UNSUPPORTED = ("movable", "Sliced")  # in the names of folders; the package leaves these games out, too
_RULES = (
    "You are in a household and have a task. Answer with one command each turn, such as: look, inventory, go to OBJ, "
    "open OBJ, close OBJ, take OBJ from OBJ, move OBJ to OBJ, clean OBJ with OBJ, heat OBJ with OBJ, "
    "cool OBJ with OBJ, use OBJ, examine OBJ. Name things with their numbers, as in: take apple 1 from table 2."
)


class ALFWorld(TextWorldGame):
    """The split `task`. `data`: the folder that `alfworld-download` filled, by default the variable ALFWORLD_DATA."""

    def __init__(self, task: str, data: str | None = None, max_turns: int = 50) -> None:
        what = f"alfworld/{task}"
        split = check_choice("a split of alfworld", task, SPLITS)
        require("fast_downward", "alfworld", what)  # textworld itself finds out only as it opens a game
        self._wrapper = require("alfworld.agents.environment.alfred_tw_env", "alfworld", what).AlfredDemangler
        self._games = _games(_data_folder(what, data), split)
        super().__init__(max_turns)
        self.instructions = _RULES

    def start(self) -> str:
        return self.begin(str(self.picked(self._games)), [self._wrapper])

    def open_game(self, path: str, wrappers: list[Any]) -> Any:
        package = require("textworld", "alfworld", "alfworld/*")
        return package.start(path, package.EnvInfos(admissible_commands=True, won=True, lost=True), wrappers)

    def reward(self) -> float:
        return float(self.success)

    def expert(self) -> str | None:
        """The first command of a plan from the present state, by the planner that comes with the package.

        The planner knows where everything is, and a player has to look for it.
        """
        if self.over:
            return None
        game = self._game.unwrapped
        plan = game._pddl_state.replan(game._entity_infos)  # asking the package for plans makes one in every step
        return " ".join(plan[0].split()) if 0 < len(plan) <= self.turns_left else None

    def legal_actions(self) -> list[str]:
        """The commands that the game lists as admissible."""
        return [" ".join(command.split()) for command in super().legal_actions()]


def _data_folder(what: str, data: str | None) -> Path:
    """The folder that holds the games, asked for and checked."""
    chosen = data or os.environ.get(VARIABLE)
    if not chosen:
        raise UserError(
            f"{what} needs ALFWorld's games, which are not part of the package: fetch them with `alfworld-download`, "
            f"and name their folder with data=DIR or the environment variable {VARIABLE}."
        )
    folder = Path(os.path.expanduser(chosen))
    if not (folder / _FOLDER).is_dir():
        raise UserError(
            f"{what}: {str(folder)!r} has no folder {_FOLDER!r}; wanted the folder that `alfworld-download` filled"
        )
    return folder / _FOLDER


@functools.lru_cache(maxsize=8)
def _games(folder: Path, split: str) -> list[Path]:
    """The games of a split that the package's own list would hold: no movable receptacles, no slices, solvable."""
    found = sorted((folder / split).rglob(_GAME))
    supported = [path for path in found if not any(mark in str(path.relative_to(folder)) for mark in _UNSUPPORTED)]
    games = [path for path in supported if json.loads(path.read_text(encoding="utf-8")).get("solvable")]
    if not games:
        raise UserError(
            f"alfworld/{split}: no playable game ({_GAME}) under {str(folder / split)!r}; `alfworld-download` fetches "
            "them"
        )
    return games
