"""A run's directory: everything about a run, in plain files, complete enough to be moved and resumed.

    config.yaml  versions.json  metrics.jsonl  tensorboard/  trajectories/*.parquet  evaluations.json
    checkpoints/step-000100/{student/, state.pt, manifest.json}  teacher/  student/  summary.json

Invariant: a file or checkpoint that is there is complete. It is written under a hidden name and renamed, and a
checkpoint's manifest names the size and hash of each of its files, so damage after that is noticed before anything is
loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel


def default_run_directory(name: str) -> Path:
    """`runs/<config>-<time>`, under the current directory."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


class RunDirectory:
    def __init__(self, path: Path):
        self.path = path
        self._made: list[Path] = []  # directories that `create` made, the run's own first

    @classmethod
    def create(cls, path: Path, config: str) -> RunDirectory:
        """Start a run in a new directory, or in one that is empty.

        Raises:
            UserError: something is there already, or it cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"run directory {path} exists already; continue it with `trpd train --resume {path}`, or name another "
                "with --run-dir"
            )
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.yaml").write_text(config, encoding="utf-8")
        except OSError as error:
            raise UserError(f"run directory {path} cannot be written: {error}") from error
        directory = cls(path)
        directory._made = missing
        directory.write_json("versions.json", _versions())
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            UserError: not a run directory.
        """
        if not (path / "config.yaml").is_file():
            raise UserError(
                f"{path} is not a run directory (it has no config.yaml); give the directory of a run to resume"
            )
        return cls(path)

    def discard(self) -> None:
        """Take back `create`, for a run that was refused before its first checkpoint; later nothing is removed."""
        if self.checkpoints():
            return
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with contextlib.suppress(OSError):  # another run has begun in one of the folders above
            for folder in self._made:
                folder.rmdir()

    def write_json(self, name: str, data: Any) -> None:
        half = self.path / f".{name}.half"
        half.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        half.replace(self.path / name)

    def read_json(self, name: str) -> Any:
        """The data of a file that `write_json` wrote; None if it is not there."""
        file = self.path / name
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); put back a whole copy, or start a new run") from error

    def append_metrics(self, figures: Mapping[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Forget metrics of steps after `step`: they will be made again."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break  # a line cut off when the run was killed; nothing after it counts
        half = file.with_name(".metrics.half")
        half.write_text("".join(kept), encoding="utf-8")
        half.replace(file)

    def save_checkpoint(self, step: int, lm: LanguageModel, state: Mapping[str, Any], keep: int) -> None:
        """Write `checkpoints/step-N` and delete all but the newest `keep`."""
        final = self.path / "checkpoints" / f"step-{step:06d}"
        half = final.with_name(f".{final.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        lm.save(half / "student")
        torch.save(dict(state), half / "state.pt")
        files = sorted(p for p in half.rglob("*") if p.is_file())
        manifest = {"step": step, "files": {str(p.relative_to(half)): _fingerprint(p) for p in files}}
        (half / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for file in [*files, half / "manifest.json"]:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(final, ignore_errors=True)
        half.rename(final)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*"))

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and directory of the newest checkpoint, checked against its manifest; None if there is none.

        Raises:
            UserError: it is damaged.
        """
        found = self.checkpoints()
        if not found:
            return None
        newest = found[-1]
        older = f" to go on from {found[-2].name}" if len(found) > 1 else " to start the run again"
        advice = f"delete {newest}{older}"
        try:
            manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
            files = dict(manifest["files"])
            step = int(manifest["step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"checkpoint {newest}: its manifest.json is missing or damaged ({error}); {advice}"
            ) from error
        for name, wanted in files.items():
            file = newest / name
            if not file.is_file():
                raise UserError(f"checkpoint {newest}: {name} is missing; {advice}")
            found_print = _fingerprint(file)
            if found_print != wanted:
                raise UserError(
                    f"checkpoint {newest}: {name} is damaged: found {found_print['bytes']} bytes, hash "
                    f"{found_print['sha256'][:12]}, wanted {wanted['bytes']} bytes, {wanted['sha256'][:12]}; {advice}"
                )
        return step, newest


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `state`. Tensors and plain values only: no pickled code is run."""
    return torch.load(checkpoint / "state.pt", weights_only=True, map_location="cpu")


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _versions() -> dict[str, str]:
    names = ("trpd-agents", "torch", "transformers", "tokenizers", "gymnasium", "textarena", "numpy")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
