"""GuessNumber: find a secret number from answers "higher" and "lower".

Rules: the secret lies from `low` to `high`; the action is a number in digits, and the answer says whether the
secret is higher or lower. Nothing else is remembered by the world, so every poor guess can be repaired: this is the
control for environments whose mistakes last.
Success: the secret is guessed; this ends the episode with reward 1. Horizon: binary search needs at most
`floor(log2(high - low + 1)) + 1` guesses.
What is hard: the answers have to be combined over turns.
"""

from __future__ import annotations

import re

from trpd_envs.base import Refused, TextEnv, check_int

_LIMIT = 10**9
_MOST_LEGAL = 1000
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,12})\s*\.?\s*")


class GuessNumber(TextEnv):
    """See the module's docstring.

    Knobs: `low` below `high`, both within a billion of 0; `max_turns`, at least what binary search needs (by default
    three times that).
    """

    instructions = "Find the secret number. Answer with one number each turn."
    in_process = True

    def __init__(self, low: int = 1, high: int = 31, max_turns: int | None = None):
        self.low = check_int("low", low, -_LIMIT, _LIMIT - 1)
        self.high = check_int("high", high, -_LIMIT, _LIMIT)
        if low >= high:
            raise ValueError(f"low={low} and high={high}: wanted low < high")
        needed = (high - low + 1).bit_length()
        super().__init__(3 * needed if max_turns is None else check_int("max_turns", max_turns, needed))

    def start(self) -> str:
        self.secret = int(self.np_random.integers(self.low, self.high + 1))
        self.known_low, self.known_high = self.low, self.high  # what the answers so far leave possible
        return f"Guess a number from {self.low} to {self.high}."

    def hint(self) -> str:
        return f"The secret is {self.secret}."

    def act(self, action: str) -> str:
        match = _NUMBER.fullmatch(action) if len(action) < 100 else None
        guess = int(match[1]) if match else None
        if guess is None or not self.low <= guess <= self.high:
            raise Refused(f"Answer with a number from {self.low} to {self.high}.")
        if guess == self.secret:
            self.finish(success=True)
            return f"{guess} is right."
        if guess < self.secret:
            self.known_low = max(self.known_low, guess + 1)
            return f"Higher than {guess}."
        self.known_high = min(self.known_high, guess - 1)
        return f"Lower than {guess}."

    def expert(self) -> str | None:
        """The middle of what the answers leave possible; None after the end."""
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """The middle of what the answers leave possible, or both of them when their number is even."""
        if self.over:
            return []
        total = self.known_low + self.known_high
        return [str(number) for number in sorted({total // 2, (total + 1) // 2})]

    def legal_actions(self) -> list[str]:
        """Every number of the range; of more than 1000, so many spread evenly."""
        if self.over:
            return []
        count = self.high - self.low + 1
        shown = min(count, _MOST_LEGAL)
        return [str(self.low + i * (count - 1) // max(1, shown - 1)) for i in range(shown)]
