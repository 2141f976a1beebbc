"""WordSearch: the words are named, so they only have to be found."""

from __future__ import annotations

from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert, legal_with


def optimal(game: Any) -> list[str]:
    """The places of the words that are not found yet, in any order."""
    hidden = {word: place for word, place in game.placed_words.items() if word not in game.correct_words}
    return [
        _stretch(row, column, direction == "across", len(word)) for word, (row, column, direction) in hidden.items()
    ]


def legal(game: Any) -> list[str]:
    """Every stretch of the board as long as one of those words that was not tried yet."""
    size = len(game.state.game_state["board"])
    lengths = sorted({len(word) for word in game.placed_words if word not in game.correct_words})
    tried = {_action(attempt) for attempt in game.incorrect_attempts}
    stretches = [
        _stretch(*(line, start) if across else (start, line), across, length)
        for length in lengths
        for across in (True, False)
        for line in range(size)
        for start in range(size - length + 1)
    ]
    return legal_with(optimal(game), [action for action in stretches if action not in tried])


def _stretch(row: int, column: int, across: bool, length: int) -> str:
    end = (row, column + length - 1) if across else (row + length - 1, column)
    return _action((row, column, *end))


def _action(ends: tuple[int, ...]) -> str:
    return "[" + " ".join(map(str, ends)) + "]"


EXPERT = Expert(optimal, legal)
