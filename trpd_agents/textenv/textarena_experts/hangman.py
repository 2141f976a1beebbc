"""Hangman: letters that most possible words have, then whole words, which cost no try."""

from __future__ import annotations

import re
from collections import Counter
from string import ascii_uppercase
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert, legal_with

_FEW = 3  # possible words that are guessed one after another
_WRONG_WORD = re.compile(r"Your guess of '(\w+)' is not the target word")


def optimal(game: Any) -> list[str]:
    """The letter in most of the possible words; these themselves where few are left, or one try."""
    possible = _possible(game)
    if not possible:
        return []
    if len(possible) <= _FEW or game.state.game_state["tries_left"] == 1:
        return [f"[{word}]" for word in possible]
    guessed = game.state.game_state["guessed_letters"]
    counts = Counter(letter for word in possible for letter in set(word) if letter not in guessed)
    most = max(counts.values())
    return [f"[{letter}]" for letter in sorted(counts) if counts[letter] == most]


def legal(game: Any) -> list[str]:
    """Every letter that was not guessed yet, and what is optimal."""
    guessed = game.state.game_state["guessed_letters"]
    return legal_with(optimal(game), [f"[{letter}]" for letter in ascii_uppercase if letter not in guessed])


def _possible(game: Any) -> list[str]:
    """The words of the game's list, in capitals, that agree with the board and with everything guessed."""
    state = game.state.game_state
    board, guessed = state["current_board"], state["guessed_letters"]
    wrong = {word for _, text in game.state.logs for word in _WRONG_WORD.findall(text)}
    words = {word.upper() for word in game.word_list if len(word) == len(board)}
    return sorted(word for word in words - wrong if all(map(_agrees, word, board, [guessed] * len(board))))


def _agrees(letter: str, shown: str, guessed: set[str]) -> bool:
    return letter == shown if shown != "_" else letter not in guessed


EXPERT = Expert(optimal, legal)
