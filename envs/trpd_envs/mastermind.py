"""Mastermind: find a secret code of different digits from how far each guess agrees with it.

Rules: the code has `length` different digits from 1 to `digits`; the action is such a code, as `1 3 5 2`, and the
answer says how many of its digits are in their place, and how many others occur elsewhere. Nothing else is remembered
by the world, so every poor guess can be repaired: this is a control for environments whose mistakes last.
Success: the code is guessed; this ends the episode with reward 1. Horizon: at most 9 guesses for
a player who always takes the lowest code that agrees with all answers.
What is hard: a guess has to agree with all answers so far at once.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import permutations

from trpd_envs.base import Refused, TextEnv, check_int

_MOST_LEGAL = 1000
_GUESS = re.compile(r"\s*[1-9](?:[\s,]*[1-9]){1,4}\s*\.?\s*")


class Mastermind(TextEnv):
    """See the module's docstring.

    Knobs: `length` 2 to 5; `digits` from `length` to 9; `max_turns` at least `length + digits` (2 more by default).
    """

    instructions = "Find the secret code. Answer with one code of different digits each turn."
    in_process = True

    def __init__(self, length: int = 4, digits: int = 6, max_turns: int | None = None):
        self.length = check_int("length", length, 2, 5)
        self.digits = check_int("digits", digits, length, 9)
        needed = length + digits
        super().__init__(needed + 2 if max_turns is None else check_int("max_turns", max_turns, needed))

    def start(self) -> str:
        codes = _codes(self.length, self.digits)
        self.secret = codes[int(self.np_random.integers(len(codes)))]
        self.history: list[tuple[str, tuple[int, int]]] = []
        return f"Guess a code of {self.length} different digits from 1 to {self.digits}."

    def hint(self) -> str:
        return f"The code is {' '.join(self.secret)}."

    def act(self, action: str) -> str:
        match = _GUESS.fullmatch(action) if len(action) < 100 else None
        guess = "".join(filter(str.isdigit, action)) if match else ""
        if len(guess) != self.length or len(set(guess)) != self.length or max(guess) > str(self.digits):
            raise Refused(f"Answer with {self.length} different digits from 1 to {self.digits}.")
        answer = _answer(guess, self.secret)
        self.history.append((guess, answer))
        if guess == self.secret:
            self.finish(success=True)
            return f"{' '.join(guess)} is right."
        return f"{' '.join(guess)}: {answer[0]} in place, {answer[1]} elsewhere."

    def expert(self) -> str | None:
        """The lowest code that agrees with all answers; None when it would come too late so, and after the end."""
        if self.over:
            return None
        left = self._left()
        # Each guess excludes itself at least, so there is no need to look ahead while turns are as many as codes.
        if len(left) > self.turns_left and self._guesses_needed(left) > self.turns_left:
            return None
        return " ".join(left[0])

    def optimal_actions(self) -> list[str]:
        """The expert's action."""
        action = self.expert()
        return [] if action is None else [action]

    def legal_actions(self) -> list[str]:
        """Every code; of more than 1000, so many spread evenly."""
        if self.over:
            return []
        codes = _codes(self.length, self.digits)
        shown = min(len(codes), _MOST_LEGAL)
        return [" ".join(codes[i * (len(codes) - 1) // (shown - 1)]) for i in range(shown)]

    def _left(self) -> tuple[str, ...]:
        """The codes that agree with all answers, in order."""
        left = _codes(self.length, self.digits)
        for guess, answer in self.history:
            left = _agreeing(left, guess, answer)
        return left

    def _guesses_needed(self, left: tuple[str, ...]) -> int:
        """Guesses of the expert from here on, its last and right one included."""
        needed = 1
        while (guess := left[0]) != self.secret:
            left = _agreeing(left, guess, _answer(guess, self.secret))
            needed += 1
        return needed


@lru_cache(maxsize=8)
def _codes(length: int, digits: int) -> tuple[str, ...]:
    """All codes in order; at most 15,120 of them."""
    return tuple("".join(code) for code in permutations("123456789"[:digits], length))


@lru_cache(maxsize=256)  # the answers to the first guesses repeat from turn to turn and from episode to episode
def _agreeing(codes: tuple[str, ...], guess: str, answer: tuple[int, int]) -> tuple[str, ...]:
    """The codes to which this would be the answer."""
    return tuple(code for code in codes if _answer(guess, code) == answer)


def _answer(guess: str, code: str) -> tuple[int, int]:
    """How many digits are in their place, and how many others occur elsewhere."""
    in_place = sum(map(str.__eq__, guess, code))
    return in_place, len(set(guess) & set(code)) - in_place
