"""Token ids as text, for people.

Invariant: the pieces of an action, one per token, join to what the tokenizer decodes it to, special tokens included; a
character spread over several tokens stands at the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from trpd_agents.report.text import visible

MAX_TOKEN = 200
"""Characters of one token that are shown."""

_BROKEN = "\ufffd"


class Vocabulary:
    """Without a file every token is shown as its id."""

    def __init__(self, file: Path | None):
        self._tokenizer: Tokenizer | None = None
        self.error: str | None = None
        if file is not None:
            try:
                self._tokenizer = Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises bare Exception for a damaged file
                self.error = f"{file.name}: cannot be read ({error}); tokens are shown by their ids"
        self._text = lru_cache(maxsize=None)(self._decode)

    @property
    def known(self) -> bool:
        return self._tokenizer is not None

    def text(self, token: int) -> str:
        """One token by itself, safe to show; a part of a character is shown as `�`."""
        return self._text(token)

    def pieces(self, tokens: Sequence[int]) -> list[str] | None:
        """Texts of consecutive tokens, where they are not simply those of each token alone; else None."""
        if self._tokenizer is None or not any(_BROKEN in self._text(token) for token in tokens):
            return None
        stream = DecodeStream(skip_special_tokens=False)
        found = [stream.step(self._tokenizer, token) or "" for token in tokens]
        # what never became a character is shown as it is
        if not found[-1]:
            found[-1] = self._text(tokens[-1])
        return [visible(piece, MAX_TOKEN) for piece in found]

    def _decode(self, token: int) -> str:
        if self._tokenizer is None or self._tokenizer.id_to_token(token) is None:
            return f"⟨{token}⟩"
        return visible(self._tokenizer.decode([token], skip_special_tokens=False), MAX_TOKEN)
