"""An environment for timing: it answers anything with the same number of words, for a fixed number of turns."""

from __future__ import annotations

from trpd_envs.base import TextEnv

WORDS = "door key left right red blue open room go take".split()


class Talk(TextEnv):
    """`turns` observations of `words` words each, drawn from the seed; nothing ends it before, nothing succeeds."""

    instructions = "Say anything."

    def __init__(self, turns: int = 16, words: int = 16):
        super().__init__(max_turns=turns)
        self.words = words

    def start(self) -> str:
        return self._talk()

    def act(self, action: str) -> str:
        return self._talk()

    def _talk(self) -> str:
        return " ".join(WORDS[i] for i in self.np_random.integers(len(WORDS), size=self.words))
