"""A folder of scores: one file each, found by a key, and never more bytes than were granted.

Invariant: a file is there whole or not at all, because it is renamed into its place; what has been damaged since is
noticed by the checksum it begins with, and counts as not there. Several processes may read and write one folder.
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from trpd_agents.errors import UserError
from trpd_agents.trajectory import Scores

_KEEP = 0.8  # share of the limit that is left after old files were deleted
_LOOK_AFTER = 1 / 32  # share of the limit that is written before the folder is measured again: others write into it too
_CHECKSUM = 16  # bytes
_ARRAYS = ("positions", "lt", "top_ids", "top_lt", "entropy")


class ScoreFiles:
    """Scores in `folder`, at most `limit` bytes of them; those not asked for the longest are deleted first.

    Four processes that write at once still stay below the limit. What would take more than a fifth of it is not kept.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._unseen = 0  # bytes written since the folder was measured
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("it is not writable")
        except OSError as error:
            raise UserError(f"teacher.cache={folder}: wanted a folder to write to, found {error}") from error
        self.trim()

    def read(self, key: str) -> Scores | None:
        """The scores under `key`; None if there are none, or they were damaged."""
        path = self._path(key)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        if stored[:_CHECKSUM] != _checksum(stored[_CHECKSUM:]):
            return None  # it is computed again and written over
        with suppress(OSError):
            os.utime(path)  # asked for now
        with np.load(io.BytesIO(stored[_CHECKSUM:]), allow_pickle=False) as arrays:
            return _scores(dict(arrays))

    def write(self, key: str, scores: Scores) -> None:
        """Keep `scores` under `key`. A disk that is full or gone costs the entry, not the run."""
        file = io.BytesIO()
        np.savez(file, **_arrays(scores))  # type: ignore[arg-type]
        payload = file.getvalue()
        size = _CHECKSUM + len(payload)
        if size > self.limit * (1 - _KEEP):
            return
        if self._unseen + size > self.limit * _LOOK_AFTER:
            self.trim(size)
        path = self._path(key)
        half = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            half.write_bytes(_checksum(payload) + payload)
            half.replace(path)
            self._unseen += size
        except OSError:
            with suppress(OSError):
                half.unlink()

    def trim(self, room: int = 0) -> None:
        """Delete the files that were not asked for the longest until there is room for `room` bytes and for others."""
        files = []
        for path in self.folder.glob("*/*.npz*"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in files)
        self._unseen = 0
        if total + room <= self.limit * (1 - 4 * _LOOK_AFTER):
            return
        for _, size, path in sorted(files):
            if total + room <= self.limit * _KEEP:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_CHECKSUM).digest()


def _arrays(scores: Scores) -> dict[str, np.ndarray]:
    arrays = {name: value for name in _ARRAYS if (value := getattr(scores, name)) is not None}
    if scores.hidden is not None:
        hidden = scores.hidden.detach().cpu()
        # NumPy has no bfloat16: it is kept as its bits.
        bits = hidden.dtype is torch.bfloat16
        arrays["bfloat16" if bits else "hidden"] = (hidden.view(torch.int16) if bits else hidden).numpy()
    return arrays


def _scores(arrays: dict[str, np.ndarray]) -> Scores:
    hidden = None
    if "bfloat16" in arrays:
        hidden = torch.from_numpy(arrays["bfloat16"]).view(torch.bfloat16)
    elif "hidden" in arrays:
        hidden = torch.from_numpy(arrays["hidden"])
    fields = {name: arrays[name] for name in _ARRAYS if name in arrays}
    return Scores(**fields, hidden=hidden)
