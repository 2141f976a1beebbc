"""TextWorld: games that its maker generates, `textworld/generated`, or one in a file, `textworld/path/to/game.z8`.

Rules: those of the game, which its first observation states. A generated game is an errand in a house: take, open,
unlock, put, in an order of `quest_length` steps; the seed decides everything in it. A file is the same game for every
seed. Success: the game is won. Reward: the increase of the score as a share of the most that there is. What is hard:
a map that has to be explored, doors that need keys, and words that have to be the game's own.

Invariant: no command reaches the interpreter that would write a file, leave the game or undo a turn, and no character
outside of printable ASCII does (a NUL would stall it for ever).
Source: M.-A. Côté et al., TextWorld, 2018.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.benchmarks.base import BenchmarkEnv
from trpd_agents.textenv.benchmarks.packages import require
from trpd_agents.user_cache import cache_directory
from trpd_envs.base import Refused, check_int

GENERATED = "generated"
SUFFIXES = (".z8", ".ulx", ".json")
# Of Inform's interpreter: they write or read files, end or rewind the game, or change how it prints.
FORBIDDEN = frozenset(
    "save restore script unscript transcript record unrecord replay quit q restart undo oops verify version trace "
    "tree actions rules showme purloin abstract gonear goto scope test random relations responses recording".split()
)
_LONGEST = 190  # the interpreter cuts longer ones
_NO_WORDS = re.compile(r"[^ -~]+")
_SENTENCES = re.compile(r"[.;]|\bthen\b", re.IGNORECASE)
_BANNER = re.compile(r"\A(?:[\s_$\\|/<>-]*\n)+")  # the title, drawn in dollar signs
_STATUS = re.compile(r"\n?>\s*(?:-= .* =-)?[^\n]*\Z")
_RULES = (
    "You play a text game. Answer with one command each turn, such as: look, inventory, go north, open OBJ, take OBJ, "
    "take OBJ from OBJ, put OBJ on OBJ, insert OBJ into OBJ, unlock OBJ with OBJ, examine OBJ, eat OBJ."
)


class TextWorldGame(BenchmarkEnv):
    """A game file driven by the package: what generated games and those of ALFWorld share."""

    _game: Any = None

    def open_game(self, path: str, wrappers: list[Any]) -> Any:
        """The opened game of a file. The package prints, and asks for what it tells by `EnvInfos`."""
        package = require("textworld", "textworld", "textworld/*")
        infos = package.EnvInfos(
            admissible_commands=True, policy_commands=True, won=True, lost=True, score=True, max_score=True
        )
        return package.start(path, infos, wrappers)

    def begin(self, path: str, wrappers: list[Any]) -> str:
        """Play the game of a file from its start; returns what it says first."""
        self.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the interpreter does not know a generated game, as nobody does
            self._game = self.open_game(path, wrappers)
        self._state = self._game.reset()
        self._score, self._gained = 0.0, 0.0
        return _tidy(self._state.feedback)

    def act(self, action: str) -> str:
        command = clean_command(action)
        known = command in self._state.admissible_commands
        self._state, _, done = self._game.step(command)
        most = self._state.max_score or 1
        score = float(self._state.score or 0) / most
        self._gained, self._score = score - self._score, score
        observation = _tidy(self._state.feedback)
        if done or self._state.won or self._state.lost:
            self.finish(success=bool(self._state.won))
        elif not known and command not in ("look", "inventory"):
            raise Refused(observation)
        return observation

    def reward(self) -> float:
        return self._gained

    def legal_actions(self) -> list[str]:
        """The commands that the game lists as admissible."""
        return [] if self.over else sorted(self._state.admissible_commands)

    def expert(self) -> str | None:
        """The first command of the package's own plan from the present state; None where it has none in time."""
        plan = [] if self.over else (self._state.policy_commands or [])
        return plan[0] if 0 < len(plan) <= self.turns_left else None

    def close(self) -> None:
        if self._game is not None:
            with contextlib.suppress(Exception):  # an interpreter that has ended cannot be ended again
                self._game.close()
        self._game = None


class TextWorld(TextWorldGame):
    """The game `task`: "generated", or the path of a file that TextWorld's maker wrote, with its `.json` beside it.

    Of a generated game: `rooms`, `objects` and `quest_length` decide its size. `max_turns`: 50 by default.
    """

    def __init__(self, task: str, rooms: int = 4, objects: int = 6, quest_length: int = 4, max_turns: int = 50) -> None:
        require("textworld", "textworld", f"textworld/{task}")
        self._size = (
            check_int("rooms", rooms, 1, 40),
            check_int("objects", objects, 1, 100),
            check_int("quest_length", quest_length, 1, 30),
        )
        self._file = None if task == GENERATED else _checked_file(task)
        super().__init__(max_turns)
        self.instructions = _RULES

    def start(self) -> str:
        if self._file is not None:
            return self.begin(self._file, [])
        return self.begin(_generated(self.episode_seed() % 2**31, *self._size), [])


def clean_command(action: str) -> str:
    """A command as the interpreter may read it: one line of printable ASCII. Raises `Refused` for a forbidden one.

    An interpreter reads `look. save` as two commands: each of them is looked at.
    """
    command = " ".join(_NO_WORDS.sub(" ", action).split())
    if len(command) > _LONGEST:
        raise Refused(f"A command has at most {_LONGEST} characters.")
    for sentence in _SENTENCES.split(command.lower()):
        first = next(iter(re.findall(r"[a-z]+", sentence)), "")
        if first in FORBIDDEN:
            raise Refused(f"The command {first!r} is not part of the game.")
    return command


def _generated(seed: int, rooms: int, objects: int, quest_length: int) -> str:
    """The path of a generated game, which is kept in the user's cache: compiling one takes a second or more."""
    package = require("textworld", "textworld", f"textworld/{GENERATED}")
    kept = cache_directory() / "textworld" / f"{package.__version__}-{rooms}-{objects}-{quest_length}-{seed}"
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            options = package.GameOptions()
            options.seeds = seed
            options.nb_rooms, options.nb_objects, options.quest_length = rooms, objects, quest_length
            options.path = str(Path(folder) / "game" / "game.z8")
            package.generator.compile_game(package.generator.make_game(options), options)
            with contextlib.suppress(OSError):  # another process may have been faster
                (Path(folder) / "game").rename(kept)
    return str(kept / "game.z8")


def _checked_file(task: str) -> str:
    path = Path(os.path.expanduser(task))
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"textworld/{task}: wanted 'textworld/{GENERATED}' or 'textworld/' and the path of a game file "
            f"({', '.join(SUFFIXES)})"
        )
    if not path.is_file():
        raise UserError(f"textworld/{task}: there is no file {str(path)!r}; `tw-make` writes games")
    return str(path)


def _tidy(feedback: str) -> str:
    """What the game says, without its drawn title, its prompt and its status line."""
    text = _STATUS.sub("", _BANNER.sub("", feedback))
    return re.sub(r"\n{3,}", "\n\n", text).strip()
