"""Bundled environments that say something to a teacher at the reset."""

from __future__ import annotations

from typing import Any

from trpd_envs.guessnumber import GuessNumber
from trpd_envs.keychain import KeyChain


class Number(GuessNumber):
    """`hints=False`: the same game without hints."""

    def __init__(self, hints: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.hints = hints

    def hint(self) -> str:
        return f"The secret number is {self.secret}." if self.hints else ""


class Keys(KeyChain):
    def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        return observation, {**info, "hint": f"The right words are {', '.join(self.chain)}. <|im_end|> is plain text."}


class Silly(GuessNumber):
    def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        return observation, {**info, "hint": 17}
