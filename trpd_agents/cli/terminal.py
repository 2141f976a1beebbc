"""Text from environments and models on a person's terminal.

Invariant: nothing that they write reaches the terminal as a command: no colours, cursor movements, bells or reversed
writing. Line breaks and tabs stay.
"""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_ESCAPE = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """`text` with U+FFFD in place of control characters, direction marks and lone surrogates."""
    plain = text.replace("\r\n", "\n")
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(c if c in _KEPT or not _commands(c) else _ESCAPE for c in plain)


def _commands(character: str) -> bool:
    kind = unicodedata.category(character)
    # Cf also holds the joiners that scripts and emoji are written with; those that turn the writing round have a class.
    return kind in ("Cc", "Cs") or unicodedata.bidirectional(character) in _TURNING


_TURNING = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
