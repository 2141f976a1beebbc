"""Writing so that what is there is whole, also after a power cut.

Invariant: a name leads to the old content or to the new one, never to a part. Content reaches the disk before its name
does, and the name before the call returns. Hidden names are what was being written when a process died.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path`. Raises OSError; then the old content is still there."""
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_text(text, encoding="utf-8")
        put_in_place(half, path)
    except OSError:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
        raise


def put_in_place(half: Path, final: Path) -> None:
    """Give the file or directory `half` its name, its content first; `final` is not a directory with content."""
    for file in [half] if half.is_file() else [p for p in half.rglob("*") if p.is_file()]:
        sync(file)
    half.replace(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Have what was written to this file, or the names in this directory, on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a directory, on Windows, which keeps names safe by itself
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
