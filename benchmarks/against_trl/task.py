"""The task that both sides play, in plain Python: neither side's packages are imported here.

One tool looks a key up and answers with words that depend on the key alone. Every word is one token of the tokenizer
that `models.py` makes, so every answer has the same number of tokens. The task ends after a fixed number of turns.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

WORDS = ["".join(letters) for letters in itertools.product("bdfgklmn", "aeiu", "prst", "oy")]
INSTRUCTIONS = "Look up one key after another."


@dataclass(frozen=True)
class Task:
    """What is played in one optimiser step, and where the models for it are."""

    models: str  # directory with `student` and `teacher`, tokenizer included in each
    turns: int
    episodes: int
    action_tokens: int  # the end-of-turn token included
    answer_words: int
    prompt_tokens: int
    observation_tokens: int  # between two actions, template included
    trl_micro_batch: int  # tokens; our side has its own default

    @property
    def conversation_tokens(self) -> int:
        """Of a whole episode, which ends with its last action."""
        between = (self.turns - 1) * self.observation_tokens
        return self.prompt_tokens + self.turns * self.action_tokens + between

    def to_dict(self) -> dict[str, str | int]:
        return asdict(self)


def question(seed: int) -> str:
    """The first observation, or user message, of the episode with this seed."""
    return f"Begin with {WORDS[seed % len(WORDS)]}."


def answer(key: str, words: int) -> str:
    """`words` words that follow from `key`."""
    state = zlib.crc32(key.encode())
    chosen = []
    for _ in range(words):
        state = (1103515245 * state + 12345) % 2**31
        chosen.append(WORDS[state >> 16 & len(WORDS) - 1])
    return " ".join(chosen)


def make_look(words: int) -> Callable[[str], str]:
    """The tool as a plain function with the hints and the docstring that schemas are read from."""

    def look(key: str) -> str:
        """Look a key up.

        Args:
            key: what to look up
        """
        return answer(key, words)

    return look
