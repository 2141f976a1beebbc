"""Text from environments and models on a person's terminal: as `visible` shows it, at its full length."""

from __future__ import annotations

from trpd_agents.safe_text import visible


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey; line breaks and tabs stay."""
    return visible(text.replace("\r\n", "\n"), limit=None)
