"""What is known about textarena's games without importing textarena, which takes over a second.

`textarena_table.json` was measured by `benchmarks/textarena_table.py`, which tries every game; it holds for the
version of textarena that it names. What no measurement tells is judged here: what counts as success, and limits.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

NO_LIMIT = 100  # turns for a game without a limit of its own; PegJump needs 13, the longest Blackjack about 50

PLAYS = "plays offline"
NEEDS_DATA = "needs data"
NEEDS_KEY = "needs key"
NEEDS_PYTHON = "needs Python 3.12"
BROKEN = "broken"
STATUSES = (PLAYS, NEEDS_DATA, NEEDS_KEY, NEEDS_PYTHON, BROKEN)

# Success is a reward of 1, except where the best reward is something else.
SUCCESS_REWARD: dict[str, float] = {
    "Blackjack": 0.5,  # the share of hands won; always winning all of them is luck
    "Set": 5.0,  # sets found in 20 turns; a count, so 1 is nothing special
}

# Limits that the games' own `max_turns` does not give. 2048 adds about 2.2 to the board with a move.
LIMITS: dict[str, Callable[[Any], int]] = {
    "2048": lambda game: game.target_tile,
    "Bandit": lambda game: game.num_turns + 1,  # the conclusion is one more
    "Hangman": lambda game: 30,  # every letter and four words
    "Wordle": lambda game: 2 * game.num_guesses,  # a mistake before every guess; two in a row end it
}

# Faults that show only to those who play well, by base name.
FAULTS: dict[str, str] = {
    "FifteenPuzzle": "its winning move raises an AttributeError, so no episode can succeed",
}
# By base name or id.
REMARKS: dict[str, str] = {
    "Sudoku-v0-hard": "a reset takes more than 10 s for some seeds",
    "Set": "accepts the same card three times as a set",
    "Hangman": "wrong whole words cost nothing but a turn",
}

# Games that ask NLTK for words; here they get them from `textarena_words`.
WORD_GAMES = frozenset(
    {
        "Codenames",
        "DontSayIt",
        "Hangman",
        "LetterAuction",
        "SpellingBee",
        "WordChains",
        "WordLadder",
        "WordSearch",
        "Wordle",
    }
)


@dataclass(frozen=True)
class Game:
    """One line of the table.

    `players`: fewest and most that a reset accepts (at most 15 were tried), None for a game that cannot be played.
    `turns`: most turns of an episode of a single-player game. `seed_matters`: other seeds give other episodes.
    """

    id: str
    status: str
    players: tuple[int, int] | None
    turns: int | None
    seed_matters: bool | None
    note: str

    @property
    def plays_alone(self) -> bool:
        return self.status == PLAYS and self.players is not None and self.players[0] == 1


@cache
def _measured() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("textarena_table.json").read_text(encoding="utf-8")
    return json.loads(text)


@cache
def table() -> dict[str, Game]:
    """Every game of textarena by its id, in textarena's order."""
    games = {}
    for row in _measured()["games"]:
        players = tuple(row["players"]) if row["players"] else None
        games[row["id"]] = Game(row["id"], row["status"], players, row["turns"], row["seed_matters"], row["note"])
    return games


def measured_version() -> str:
    """The version of textarena that the table holds for."""
    return _measured()["textarena"]


def other_version() -> str | None:
    """The installed version of textarena, if it is not the one that the table holds for."""
    try:
        installed = importlib.metadata.version("textarena")
    except importlib.metadata.PackageNotFoundError:
        return None
    return installed if installed != measured_version() else None


def single_player() -> dict[str, Game]:
    """The games that one player can play, offline."""
    return {name: game for name, game in table().items() if game.plays_alone}


def refusal(game: str) -> str | None:
    """Why `game` cannot be played here, if that is known. Another version of textarena may have mended anything."""
    known = table().get(game)
    if known is None or known.status == PLAYS or other_version():
        return None
    if known.status == NEEDS_PYTHON and sys.version_info >= (3, 12):
        return None
    return _REASONS[known.status].format(note=known.note, version=".".join(map(str, sys.version_info[:2])))


_REASONS = {
    NEEDS_DATA: "{note}; nothing is downloaded during a run",
    NEEDS_KEY: "{note}; games that need a service or an API key are not supported",
    NEEDS_PYTHON: "it does not compile under Python {version}; it needs a newer Python, at least 3.12",
    BROKEN: "{note}",
}


def base_name(game: str) -> str:
    """`Mastermind` of `Mastermind-v0-hard`."""
    return game.partition("-v")[0]


def horizon(game: str, started: Any) -> int:
    """Most turns of an episode of a game that has been reset: its own limit, else ours."""
    limit = LIMITS.get(base_name(game))
    return limit(started) if limit else started.state.max_turns or NO_LIMIT
