"""WordLadder: shortest ladders through every word that the game accepts."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from string import ascii_lowercase
from typing import Any

from trpd_agents.textenv.textarena_experts.expert import Expert


def optimal(game: Any) -> list[str]:
    """Every word that begins a shortest ladder."""
    distances = _distances(game.target_word, game.universal_word_list)
    left = distances.get(game.current_word)
    if not left:
        return []
    return [
        f"[{word}]" for word in _next_to(game.current_word, game.universal_word_list) if distances.get(word) == left - 1
    ]


def legal(game: Any) -> list[str]:
    """Every word that differs in one letter."""
    return [f"[{word}]" for word in _next_to(game.current_word, game.universal_word_list)]


def _next_to(word: str, words: frozenset[str]) -> list[str]:
    changed = (
        word[:place] + letter + word[place + 1 :]
        for place in range(len(word))
        for letter in ascii_lowercase
        if letter != word[place]
    )
    return [other for other in changed if other in words]


@lru_cache(maxsize=32)
def _distances(target: str, words: frozenset[str]) -> dict[str, int]:
    distances = {target: 0}
    queue = deque([target])
    while queue:
        word = queue.popleft()
        for other in _next_to(word, words):
            if other not in distances:
                distances[other] = distances[word] + 1
                queue.append(other)
    return distances


EXPERT = Expert(optimal, legal)
