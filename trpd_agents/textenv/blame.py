"""Where in the user's code something went wrong: the one line of a traceback that helps its reader."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).resolve().parent)
_INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def blame(error: BaseException) -> str:
    """`ValueError: the text (/path/my_env.py:12, in step)`.

    Names the deepest frame that belongs neither to us nor to an installed package or the standard library, else the
    deepest one that is not ours.
    """
    text = str(error).strip()
    if len(text) > 500:
        text = text[:500] + "..."
    described = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((_OURS, "<frozen"))]
    own = [f for f in frames if not f.filename.startswith(_INSTALLED)]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{described.split(' (')[0]} ({error.filename}:{error.lineno})"
    if not frames:
        return described
    frame = (own or frames)[-1]
    return f"{described} ({frame.filename}:{frame.lineno}, in {frame.name})"
