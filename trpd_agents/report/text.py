"""Texts for pages: `visible` and `one_line`, and data files that a page opened from disk can load."""

from __future__ import annotations

import json
from typing import Any

from trpd_agents.safe_text import one_line, visible

__all__ = ["one_line", "script", "visible"]


def script(name: str, data: Any) -> str:
    """A JavaScript file that hands `data` to the page under `name`: pure ASCII, and no `<` in it.

    Pages opened from disk may load scripts but no other files.
    """
    body = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"trpd.give({json.dumps(name)},{body});\n"
