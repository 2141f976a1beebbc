"""A text space that is cheap to build and accepts any text.

`gymnasium.spaces.Text` accepts 62 alphanumerics by default, and takes seconds to build over all of Unicode. Whether an
observation is text of a reasonable length is all that a language model needs to know, so that is all this space checks.
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium

_SAMPLE_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n"
_SAMPLE_LENGTH = 32  # characters; sampling up to `max_length` would cost milliseconds and show nothing more


class Text(gymnasium.spaces.Text):
    """All strings of at most `max_length` characters, the empty string, newlines and any Unicode included.

    `sample()` draws up to 32 printable ASCII characters from the space's own generator. A subclass of
    Gymnasium's `Text`, so code that dispatches on the type of a space treats it as text.
    """

    def __init__(self, max_length: int = 1_000_000, *, seed: int | None = None):
        if not isinstance(max_length, int) or max_length < 0:
            raise ValueError(f"Text(max_length={max_length!r}): wanted a number of characters, 0 or more")
        super().__init__(max_length, min_length=0, charset=_SAMPLE_CHARACTERS, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random printable text. Masks are refused: they speak of a character set, and this space has none."""
        if mask is not None or probability is not None:
            raise ValueError("Text.sample() takes no mask and no probability: this space has no character set")
        length = int(self.np_random.integers(min(self.max_length, _SAMPLE_LENGTH) + 1))
        return "".join(_SAMPLE_CHARACTERS[i] for i in self.np_random.integers(len(_SAMPLE_CHARACTERS), size=length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"Text(max_length={self.max_length})"
