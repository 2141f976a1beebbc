"""What has to be known about textarena's single-player games without importing textarena, which takes over a second.

Horizons and the games that ignore their seed are measured with textarena 0.7.4; tests compare them with the package.
"""

from __future__ import annotations

NO_LIMIT = 100  # turns for a game without a limit of its own; PegJump needs 13, the longest Blackjack about 50

# Game -> most turns of one episode. Where a game has a limit of its own, that; 2048 adds about 2.2 a move.
GAMES: dict[str, int] = {
    "2048-v0-ultra-easy": 32,
    "2048-v0-mega-easy": 64,
    "2048-v0-super-easy": 128,
    "2048-v0-very-easy": 256,
    "2048-v0-easy": 1024,
    "2048-v0": 2048,
    "2048-v0-hard": 4096,
    "2048-v0-very-hard": 8192,
    "2048-v0-extreme": 16384,
    "2048-v0-3x3": 2048,
    "2048-v0-5x5": 2048,
    "2048-v0-6x6": 2048,
    "2048-v0-8x8": 2048,
    "2048-v0-10x10": 2048,
    "Bandit-v0": 21,
    "Bandit-v0-hard": 41,
    "Blackjack-v0": NO_LIMIT,
    "Blackjack-v0-long": NO_LIMIT,
    "Countdown-v0": 12,
    "Crosswords-v0": 30,
    "Crosswords-v0-hardcore": 30,
    "Cryptarithm-v0": 100,
    "FrozenLake-v0": 100,
    "FrozenLake-v0-random": 100,
    "FrozenLake-v0-hardcore": 100,
    "GuessTheNumber-v0": 10,
    "GuessTheNumber-v0-hardcore": 10,
    "LightsOut-v0": 20,
    "LogicPuzzle-v0": 30,
    "LogicPuzzle-v0-hard": 30,
    "Mastermind-v0": 20,
    "Mastermind-v0-hard": 30,
    "Mastermind-v0-extreme": 50,
    "Minesweeper-v0": 100,
    "Minesweeper-v0-small": 100,
    "Minesweeper-v0-medium": 100,
    "Minesweeper-v0-hard": 100,
    "PegJump-v0": NO_LIMIT,
    "RushHour-v0": NO_LIMIT,
    "Secretary-v0": 5,
    "Secretary-v0-long": 10,
    "Set-v0": 20,
    "Slitherlink-v0": 200,
    "Sokoban-v0": 30,
    "Sudoku-v0": 100,
    "Sudoku-v0-very-easy": 100,
    "Sudoku-v0-easy": 100,
    "Sudoku-v0-medium": 100,
    "Sudoku-v0-hard": 100,
    "ThreeCardMonte-v0": NO_LIMIT,
    "TowerOfHanoi-v0": 14,
    "TowerOfHanoi-v0-medium": 30,
    "TowerOfHanoi-v0-hard": 62,
    "TowerOfHanoi-v0-hardcore": 126,
    "TowerOfHanoi-v0-extreme": 254,
}

# Bandit asks for its conclusion in one more turn than its limit says.
EXTRA_TURNS: dict[str, int] = {"Bandit": 1}

# Success is a reward of 1, except where the best reward is something else.
SUCCESS_REWARD: dict[str, float] = {
    "Blackjack": 0.5,  # the share of hands won; always winning all of them is luck
    "Set": 5.0,  # sets found in 20 turns; a count, so 1 is nothing special
}

# The same instance whatever the seed: a success rate over many seeds is one sample.
SEED_HAS_NO_EFFECT: frozenset[str] = frozenset({"Countdown", "Cryptarithm", "PegJump", "TowerOfHanoi"})

# Games that cannot be played whatever the machine has, by name or by base name.
UNPLAYABLE: dict[str, str] = {
    "FifteenPuzzle": "its winning move raises an AttributeError in textarena 0.7.4, so no episode can succeed",
    "GuessWho": "it asks an online language model; games that need a service or an API key are not supported",
    "Klondike": "its source does not compile in textarena 0.7.4",
    "Sokoban-v0-medium": "its reset does not finish in textarena 0.7.4",
    "TwentyQuestions": "it asks an online language model; games that need a service or an API key are not supported",
}

# Games that work once the NLTK data they read are installed.
NEEDS_DATA: tuple[str, ...] = (
    "Hangman-v0",
    "Hangman-v0-hardcore",
    "WordLadder-v0",
    "WordLadder-v0-medium",
    "WordLadder-v0-hard",
    "WordSearch-v0",
    "WordSearch-v0-hardcore",
    "Wordle-v0",
    "Wordle-v0-hardcore",
    "Wordle-v0-long",
    "Wordle-v0-long-hardcore",
)


def base_name(game: str) -> str:
    """`Mastermind` of `Mastermind-v0-hard`."""
    return game.partition("-v")[0]
