"""What a model or an environment wrote, made safe to show: in a page, in a data file of one, in a terminal.

Invariant: what leaves this module holds no character that moves a cursor, changes a colour, turns the direction of
writing or cannot be seen at all, and is no longer than asked for. Nothing is dropped in silence: a character taken out
is named in its place, and a text that was cut says by how much.
"""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT = 20_000
"""Characters of one observation, action or argument that are shown."""

_JOINERS = "\u200c\u200d"  # invisible, but parts of emoji and of Persian and Indic words; they reorder nothing
_SUSPECT = re.compile(r"[^\n\t -~]")


def visible(text: str, limit: int | None = MAX_TEXT) -> str:
    """`text` with control, format and unassigned characters named in their place, cut after `limit` characters.

    Newlines and tabs stay. C0 controls become their pictures (ESC is `␛`), everything else its code point in angle
    brackets, as in `⟨U+202E⟩`.
    """
    cut = 0 if limit is None else len(text) - limit
    if cut > 0:
        text = text[:limit]
    text = _SUSPECT.sub(lambda found: _named(found[0]), text)
    return f"{text} … [{cut:,} more characters]" if cut > 0 else text


def _named(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(character)
    if (category[0] == "C" and character not in _JOINERS) or category in ("Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character


def one_line(text: str, limit: int = 200) -> str:
    """`visible`, in a single line."""
    return visible(text, limit).replace("\n", "⏎").replace("\t", " ")
