"""The checkpoints of a run: `checkpoints/step-000100/{..., manifest.json}`, and which of them is the best.

Invariant: a checkpoint that is there was complete when it got its name, and its manifest has the size and hash of each
of its files, so damage after that is noticed before anything is loaded. A damaged one is passed over for the one
before it, and said to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trpd_agents.atomic import put_in_place, write_text
from trpd_agents.errors import UserError

MANIFEST = "manifest.json"
_BEST = "best.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. `config` is the configuration it was made with, None if an older version made it."""

    step: int
    path: Path
    config: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What `save_state` was given. Tensors and plain values only: no pickled code is run."""
        return torch.load(self.path / "state.pt", weights_only=True, map_location="cpu")


class Damaged(Exception):
    """A checkpoint is not what its manifest says. The message says in what."""


class Checkpoints:
    """Those in `folder`, which need not be there yet."""

    def __init__(self, folder: Path):
        self.folder = folder

    def all(self) -> list[Path]:
        """Oldest first; half-written ones have hidden names and are not among them."""
        return sorted(self.folder.glob("step-*"))

    def save(self, step: int, write: Callable[[Path], None], keep: int, config: dict[str, Any]) -> None:
        """Have `write` fill a directory, make it the checkpoint of `step`, and delete all but the newest `keep` and
        the best.

        Raises:
            OSError, RuntimeError: it cannot be written; the others are untouched.
        """
        final = self.folder / f"step-{step:06d}"
        half = final.with_name(f".{final.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        try:
            write(half)
            files = sorted(p for p in half.rglob("*") if p.is_file())
            prints = {p.relative_to(half).as_posix(): _fingerprint(p) for p in files}
            manifest = {"step": step, "config": config, "files": prints}
            (half / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            if final.exists():  # from before the run was taken back to an earlier step
                final.rename(old := final.with_name(f".{final.name}.old"))
                put_in_place(half, final)
                shutil.rmtree(old)
            else:
                put_in_place(half, final)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        best = self.best()
        for path in self.all()[:-keep]:
            if best is None or path.name != f"step-{best[0]:06d}":
                shutil.rmtree(path)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; None if none was ever written.

        Raises:
            UserError: there are some, and all of them are damaged.
        """
        reasons = []
        for path in reversed(self.all()):
            try:
                return _checked(path)
            except Damaged as reason:
                reasons.append(str(reason))
        if reasons:
            raise UserError(
                f"no checkpoint in {self.folder} is whole: {'; '.join(reasons)}; put back a whole copy of one, or "
                "start the run again"
            )
        return None

    def set_aside_damaged(self) -> list[str]:
        """Hide the checkpoints newer than `newest()`, so that they are not taken for it; a sentence on each."""
        newest = self.newest()
        said = []
        for path in self.all() if newest is not None else []:
            if newest is not None and path > newest.path:
                try:
                    _checked(path)
                except Damaged as reason:
                    aside = path.with_name(f"damaged-{path.name}")
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                    said.append(f"{reason}; it is kept as {aside.name}, and the run goes on from {newest.path.name}")
        return said

    def best(self) -> tuple[int, float] | None:
        """Step and success rate of the checkpoint with the best evaluation during training."""
        try:
            found = json.loads((self.folder / _BEST).read_text(encoding="utf-8"))
            return int(found["step"]), float(found["success_rate"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never marked, or unreadable, which only costs its being kept

    def mark_best(self, step: int, success_rate: float) -> None:
        write_text(self.folder / _BEST, json.dumps({"step": step, "success_rate": success_rate}) + "\n")

    def forget_best_after(self, step: int) -> None:
        """What was best after `step` will be made again."""
        best = self.best()
        if best is not None and best[0] > step:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / _BEST).unlink()


def save_state(folder: Path, state: dict[str, Any]) -> None:
    torch.save(state, folder / "state.pt")


def _checked(path: Path) -> Checkpoint:
    """Raises `Damaged`."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files, step = dict(manifest["files"]), int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {path}: its {MANIFEST} is missing or damaged ({error})") from error
    for name, wanted in files.items():
        file = path / name
        if not file.is_file():
            raise Damaged(f"checkpoint {path}: {name} is missing")
        found = _fingerprint(file)
        if found != wanted:
            raise Damaged(
                f"checkpoint {path}: {name} is damaged: found {found['bytes']} bytes, hash {found['sha256'][:12]}, "
                f"wanted {wanted['bytes']} bytes, {wanted['sha256'][:12]}"
            )
    return Checkpoint(step, path, manifest.get("config"))


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
