"""Wordle: guesses that split the secret words that are still possible into small groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert, legal_with

_SPLIT = 80  # possible words up to which guesses are compared by what they would leave


def optimal(game: Any) -> list[str]:
    """The best guess by what it would leave; by common letters while too many words are possible."""
    secrets, history = tuple(game.word_list), game.state.game_state["guess_history"]
    told = tuple((word, "".join(letters)) for word, letters in history)
    return [f"[{word}]" for word in _best(secrets, told, game.num_guesses - len(told))]


def legal(game: Any) -> list[str]:
    """Secret words that were not guessed yet; the game accepts other English words too."""
    guessed = {word for word, _ in game.state.game_state["guess_history"]}
    return legal_with(optimal(game), [f"[{word}]" for word in game.word_list if word not in guessed])


@lru_cache(maxsize=64)
def _best(secrets: tuple[str, ...], history: tuple[tuple[str, str], ...], guesses_left: int) -> list[str]:
    possible = [word for word in secrets if all(answer(guess, word) == told for guess, told in history)]
    if len(possible) > _SPLIT:
        return [_commonest(possible)]
    if not possible:
        return []
    best = _split(possible, possible)
    if best[0] > max(1, guesses_left - 1):
        # Guessing words that are possible might not end in time: a word that is not possible may tell more.
        guessed = {word for word, _ in history}
        best = min(best, _split([word for word in secrets if word not in guessed], possible))
    return [best[2]]


def _split(guesses: Sequence[str], possible: Sequence[str]) -> tuple[int, int, str]:
    """The guess whose largest group is smallest, then the one with most groups: (size, -groups, guess)."""

    def split(guess: str) -> tuple[int, int, str]:
        groups = Counter(answer(guess, word) for word in possible)
        return max(groups.values()), -len(groups), guess

    return min(map(split, guesses))


def _commonest(possible: list[str]) -> str:
    """The word whose different letters are in as near to half of the words as possible, and in their places."""
    inside = Counter(letter for word in possible for letter in set(word))
    placed = Counter(pair for word in possible for pair in enumerate(word))
    half = len(possible) / 2

    def worth(word: str) -> float:
        return sum(half - abs(half - inside[letter]) for letter in set(word)) + sum(
            placed[pair] for pair in enumerate(word)
        )

    return max(possible, key=lambda word: (worth(word), word))


def answer(guess: str, secret: str) -> str:
    """The game's answer: G for the right place, Y for another place, X for a letter that is not (any more) there."""
    left = Counter(s for g, s in zip(guess, secret, strict=True) if g != s)
    told = []
    for g, s in zip(guess, secret, strict=True):
        if g == s:
            told.append("G")
        elif left[g] > 0:
            left[g] -= 1
            told.append("Y")
        else:
            told.append("X")
    return "".join(told)


EXPERT = Expert(optimal, legal)
