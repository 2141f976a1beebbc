"""A run's report: one folder of pages and data that is opened from disk and asks nothing of any network.

    index.html  episodes.html  compare.html  assets/  data/{run,pairs}.js  data/{a,b}/{index,vocabulary,chunk-0000}.js

Invariant: the folder is complete or not there: it is written beside its place and renamed. Only an earlier report is
ever replaced.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trpd_agents import __version__
from trpd_agents.errors import UserError
from trpd_agents.report.advice import advise
from trpd_agents.report.chunks import ChunkWriter
from trpd_agents.report.compare import Prints, pairs, settings_that_differ, side_by_side
from trpd_agents.report.episodes import stream_episodes
from trpd_agents.report.figures import Sums, curves, difference, log_ratios, phases, results
from trpd_agents.report.files import RunFiles, open_run_files
from trpd_agents.report.text import one_line, script, visible
from trpd_agents.report.vocabulary import Vocabulary

_HERE = Path(__file__).parent
_ENTRIES = {"index.html", "episodes.html", "compare.html", "assets", "data"}  # all that a report is made of


@dataclass(frozen=True)
class Written:
    """`index` is the page to open; `missing` names what could not be shown."""

    index: Path
    episodes: int
    missing: list[str]


def write_report(
    run_dir: Path,
    out: Path | None = None,
    against: Path | None = None,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the report of a run, finished or not, by default to `report/` in its directory.

    Args:
        against: another run, to be compared on the episodes that both played.
        on_file: hears how many files of stored episodes are done, of how many.

    Raises:
        UserError: not a run's directory; `out` holds something else, or cannot be written.
    """
    run = open_run_files(run_dir)
    other = open_run_files(against) if against is not None else None
    final = out if out is not None else run_dir / "report"
    _refuse_foreign(final)
    half = final.with_name(f".{final.name}.{os.getpid()}")
    total = len(run.steps) + (len(other.steps) if other is not None else 0)
    done = 0

    def step_on(_: Path) -> None:
        nonlocal done
        done += 1
        on_file(done, total)

    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        shutil.copytree(_HERE / "assets", half / "assets")
        sums, prints = _write_episodes(run, half / "data", "a", step_on)
        _write_pages(half, run, sums, other)
        if other is not None:
            _, others = _write_episodes(other, half / "data", "b", step_on)
            paired = pairs(prints, others)
            (half / "data" / "pairs.js").write_text(script("pairs", paired), encoding="ascii")
            _write_comparison(half, run, other, len(paired["a"]))
        if final.exists():
            shutil.rmtree(final)
        half.rename(final)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {final}: {error}; name a folder that can be, with --out"
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    missing = list(run.missing)
    if other is not None:
        missing += [f"{other.name}: {what}" for what in other.missing]
    return Written(final / "index.html", sum(s.episodes for s in sums.by_step.values()), missing)


def _refuse_foreign(final: Path) -> None:
    """An earlier report may be replaced; anything else could be someone's results."""
    if not final.exists() or (final.is_dir() and {entry.name for entry in final.iterdir()} <= _ENTRIES):
        return
    raise UserError(f"{final} holds something that is no report; name a new folder with --out")


def _write_episodes(run: RunFiles, data: Path, prefix: str, on_file: Callable[[Path], None]) -> tuple[Sums, Prints]:
    vocabulary = Vocabulary(run.tokenizer)
    if vocabulary.error is not None:
        run.miss(vocabulary.error)
    sums, prints = Sums(), Prints()
    writer = ChunkWriter(data / prefix, prefix, vocabulary)
    for seen in stream_episodes(run, on_file=on_file):
        writer.add(seen)
        sums.add(seen)
        prints.add(seen.trajectory)
    writer.finish()
    return sums, prints


def _write_pages(folder: Path, run: RunFiles, sums: Sums, other: RunFiles | None) -> None:
    (folder / "data" / "run.js").write_text(script("run", curves(run, sums)), encoding="ascii")
    common = {"run": _about(run), "other": None if other is None else _about(other), "version": __version__}
    gains = [
        (words, difference(run, first, second))
        for words, first, second in (
            ("student after minus before", "before", "after"),
            ("teacher minus student before", "before", "teacher"),
            ("teacher minus student after", "after", "teacher"),
        )
    ]
    _render(
        folder / "index.html",
        page="run",
        warnings=advise(run, sums),
        results=results(run),
        gains=[(words, gain) for words, gain in gains if gain is not None],
        phases=phases(run),
        outcomes=sums.counts("outcomes"),
        stops=sums.counts("stops"),
        errors=sums.counts("errors"),
        log_ratios=log_ratios(sums),
        **common,
    )
    _render(folder / "episodes.html", page="episodes", **common)


def _write_comparison(folder: Path, run: RunFiles, other: RunFiles, n_pairs: int) -> None:
    _render(
        folder / "compare.html",
        page="compare",
        run=_about(run),
        other=_about(other),
        version=__version__,
        rows=side_by_side(run, other),
        settings=settings_that_differ(run, other),
        n_pairs=n_pairs,
    )


def _about(run: RunFiles) -> dict[str, Any]:
    """What every page says of a run."""
    config = run.config
    facts = {"run": one_line(run.name)}
    if config is not None:
        teacher = getattr(config.teacher, "model", config.teacher.kind)
        facts |= {
            "environment": one_line(" ".join([config.env.id, *(f"{k}={v}" for k, v in config.env.kwargs.items())])),
            "method": config.credit.preset,
            "trajectory rule": one_line(" ".join(f"{k}={v}" for k, v in vars(config.credit.method.rule).items())),
            "student": one_line(config.student.model),
            "teacher": one_line(str(teacher)),
            "seed": str(config.seed),
        }
    asked = config.training.steps if config is not None else None
    facts["updates"] = f"{run.steps_done}" + (f" of {asked}" if asked is not None else "")
    facts["stored updates"] = str(len(run.steps))
    facts["written"] = time.strftime("%Y-%m-%d %H:%M")
    if "trpd-agents" in run.versions:
        facts["trained with"] = one_line(f"trpd-agents {run.versions['trpd-agents']}")
    return {"name": one_line(run.name), "facts": facts, "finished": run.finished, "missing": run.missing}


def _render(file: Path, **values: Any) -> None:
    """A page from the template of its name. Every value is made visible, then escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    text = environment.get_template(file.name).render(**values)
    file.write_text(text, encoding="utf-8")
