"""A run's directory: everything about a run, in plain files, complete enough to be moved and resumed.

    config.yaml  versions.json  metrics.jsonl  tensorboard/  trajectories/*.parquet  evaluations.json
    checkpoints/step-000100/{student/, state.pt, manifest.json}  teacher/  student/  summary.json

Invariant: a file or checkpoint that is there is complete; `metrics.jsonl` alone grows line by line, and its last line
may be cut off. One process at a time writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trpd_agents.atomic import sync, write_text
from trpd_agents.checkpoints import Checkpoints
from trpd_agents.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def default_run_directory(name: str) -> Path:
    """`runs/<config>-<time>`, under the current directory."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


class RunDirectory:
    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
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
        directory = cls(path)
        directory._made = missing
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / "config.yaml", config)
            directory.write_json("versions.json", _versions())
        except OSError as error:
            with contextlib.suppress(OSError):
                directory.discard()
            raise directory.not_writable(error) from error
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
        if self.checkpoints.all():
            return
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with contextlib.suppress(OSError):  # another run has begun in one of the folders above
            for folder in self._made:
                folder.rmdir()

    def not_writable(self, error: OSError) -> UserError:
        reason = error.strerror or error
        return UserError(f"run directory {self.path} cannot be written: {reason}; make room, or the directory writable")

    def write_json(self, name: str, data: Any) -> None:
        write_text(self.path / name, json.dumps(data, indent=2) + "\n")

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
        write_text(file, "".join(kept))

    def sync_metrics(self) -> None:
        """Have the metrics so far on the disk: what a checkpoint counts as done must not be lost after it."""
        with contextlib.suppress(FileNotFoundError):
            sync(self.path / "metrics.jsonl")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block no other process may have the run. The lock goes with the process, however it ends.

        Raises:
            UserError: another process has it, or it cannot be written.
        """
        if fcntl is None:  # no such locks on this platform
            yield
            return
        try:
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise self.not_writable(error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    yield  # a file system without locks, which many clusters have
                    return
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(
                    f"run directory {self.path} is in use by {holder}; wait for it or stop it, or give this run a "
                    "directory of its own"
                ) from None
            file.truncate(0)
            try:
                os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
            except OSError as error:
                raise self.not_writable(error) from error
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    (self.path / ".lock").unlink()


def _versions() -> dict[str, str]:
    names = ("trpd-agents", "torch", "transformers", "tokenizers", "gymnasium", "textarena", "numpy")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
