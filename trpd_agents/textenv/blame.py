"""Where in the user's code something went wrong: the one line of a traceback that helps its reader."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Sequence
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
    if isinstance(error, SyntaxError) and error.filename:
        return f"{described.split(' (')[0]} ({error.filename}:{error.lineno})"
    where = deepest([(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)])
    return f"{described} ({where})" if where else described


def deepest(frames: Sequence[tuple[str, int, str]]) -> str:
    """`/path/my_env.py:12, in step` of frames (file, line, name), the deepest last; "" if there is none to name."""
    frames = [frame for frame in frames if not frame[0].startswith((_OURS, "<frozen"))]
    own = [frame for frame in frames if not frame[0].startswith(_INSTALLED)]
    if not frames:
        return ""
    file, line, name = (own or frames)[-1]
    return f"{file}:{line}, in {name}"
