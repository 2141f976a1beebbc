"""Where a run's metrics are shown while it goes on: TensorBoard, Weights & Biases, Trackio.

Invariant: `metrics.jsonl` is the record, and these only show it. One that fails says so once and is left alone; the run
goes on. A resumed run goes on in the same place.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from trpd_agents.config.run import RunConfig
from trpd_agents.config.tracking import TrackingConfig
from trpd_agents.errors import UserError
from trpd_agents.histograms import BINS, closed
from trpd_agents.run_directory import RunDirectory

KEPT = "trackers.json"
"""In the run directory: by service the name under which it knows the run."""


class Tracker(Protocol):
    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Numbers, and the counts of `BINS`; other figures are passed over."""

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self, failed: bool) -> None: ...


def check_trackers(config: TrackingConfig) -> None:
    """Raises UserError if a package is missing that `config` asks for."""
    for name in _SERVICES:
        if getattr(config, name) is not None and importlib.util.find_spec(name) is None:
            raise UserError(
                f"tracking.{name} needs {name}, which is not installed: pip install 'trpd-agents[{name}]'; or set "
                f"tracking.{name}=null"
            )


def open_trackers(
    config: RunConfig, directory: RunDirectory, first_step: int, say: Callable[[str], None]
) -> list[Tracker]:
    """Those that `config` asks for, to go on after `first_step`; `say` is told of any that cannot.

    Raises:
        UserError: a service refuses the run from the start.
        OSError: TensorBoard's files cannot be written.
    """
    tracking = config.tracking
    found: list[Tracker] = []
    if tracking.tensorboard:
        found.append(_Spared("tensorboard", TensorBoard(directory, first_step), say))
    for name, service in _SERVICES.items():
        if getattr(tracking, name) is not None:
            try:
                found.append(_Spared(name, service(config, directory), say))
            except Exception as error:
                raise UserError(
                    f"{name} cannot begin: {_first_line(error)}; see to it ({name} has its own settings and login), or "
                    f"set tracking.{name}=null"
                ) from error
    return found


class TensorBoard:
    """Event files in `tensorboard/`. Those of a resumed run take back what was made after its checkpoint."""

    def __init__(self, directory: RunDirectory, first_step: int):
        self._board = SummaryWriter(str(directory.path / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        for name, value in figures.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)
            elif name in BINS and sum(value):
                self._histogram(step, name, value)

    def _histogram(self, step: int, name: str, counts: Sequence[int]) -> None:
        """Sums are those of the bins' middles."""
        bins = closed(BINS[name])
        there = [interval for interval, n in zip(bins, counts, strict=True) if n]
        middles = [(low + high) / 2 for low, high in bins]
        self._board.add_histogram_raw(
            name,
            min=there[0][0],
            max=there[-1][1],
            num=sum(counts),
            sum=sum(n * x for n, x in zip(counts, middles, strict=True)),
            sum_squares=sum(n * x * x for n, x in zip(counts, middles, strict=True)),
            bucket_limits=[high for _, high in bins],
            bucket_counts=list(counts),
            global_step=step,
        )

    def text(self, step: int, name: str, text: str) -> None:
        # A block of code: nothing in it is Markdown or HTML.
        self._board.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)

    def close(self, failed: bool) -> None:
        self._board.close()


class Wandb:
    """Sent are the configuration and the metrics: neither the command line, nor the machine, nor the repository, nor
    what is printed, where there may be secrets. The run's id is kept in `KEPT`."""

    def __init__(self, config: RunConfig, directory: RunDirectory):
        section = config.tracking.wandb
        assert section is not None
        self._wandb = importlib.import_module("wandb")
        name = _name(directory, "wandb", fresh=secrets.token_hex(4))
        self._run = self._wandb.init(
            project=section.project,
            entity=section.entity,
            mode=section.mode,
            id=name,
            resume="allow",
            name=directory.path.resolve().name,
            config=config.model_dump(mode="json"),
            dir=str(directory.path),
            settings=self._wandb.Settings(
                disable_git=True, save_code=False, console="off", x_disable_meta=True, x_disable_stats=True
            ),
        )

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        shown = _numbers(figures)
        for name, edges in BINS.items():
            if name in figures:
                bins = closed(edges)
                limits = [bins[0][0], *(high for _, high in bins)]
                shown[name] = self._wandb.Histogram(np_histogram=(figures[name], limits))
        self._run.log(shown, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Episodes stay in the run directory."""

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of the local dashboard, under a name kept in `KEPT`."""

    def __init__(self, config: RunConfig, directory: RunDirectory):
        section = config.tracking.trackio
        assert section is not None
        self._trackio: ModuleType = importlib.import_module("trackio")
        name = _name(directory, "trackio", fresh=f"{directory.path.resolve().name}-{secrets.token_hex(2)}")
        settings = config.model_dump(mode="json")
        self._run = self._trackio.init(project=section.project, name=name, resume="allow", config=settings)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        self._run.log(_numbers(figures), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Episodes stay in the run directory."""

    def close(self, failed: bool) -> None:
        self._run.finish()


_SERVICES: dict[str, Callable[[RunConfig, RunDirectory], Tracker]] = {"wandb": Wandb, "trackio": Trackio}


class _Spared:
    """A tracker that may fail: it is then told nothing any more."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]):
        self._name, self._tracker, self._say = name, tracker, say
        self._failed = False

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        self._do(partial(self._tracker.write, step, figures))

    def text(self, step: int, name: str, text: str) -> None:
        self._do(partial(self._tracker.text, step, name, text))

    def close(self, failed: bool) -> None:
        self._do(partial(self._tracker.close, failed))

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except Exception as error:
            self._failed = True
            self._say(f"{self._name} gets no more metrics: {_first_line(error)}; they are in metrics.jsonl")


def _name(directory: RunDirectory, service: str, fresh: str) -> str:
    """Under which name the service knows this run; `fresh` from now on, if it does not know it yet."""
    known = dict(directory.read_json(KEPT) or {})
    if service not in known:
        known[service] = fresh
        directory.write_json(KEPT, known)
    return str(known[service])


def _numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def _first_line(error: Exception) -> str:
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
