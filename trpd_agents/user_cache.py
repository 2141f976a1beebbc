"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$TRPD_CACHE`, else `trpd_agents` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("TRPD_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trpd_agents"
