"""All checks of one environment, each in a process that may hang, crash or exit without taking the caller with it.

Invariant: `examine` comes to an end whatever the environment does. A check that does not come back in time is an error
of that check, its process is killed with everything it started, and the checks that are left get another one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium

from trpd_agents.errors import RunError, UserError
from trpd_agents.textenv.checks.child import CHECKS, run_checks, transcripts
from trpd_agents.textenv.checks.finding import Finding, error, ok, skipped, warning
from trpd_agents.textenv.checks.probe import Settings, first_difference
from trpd_agents.textenv.mixture import MIXTURE, members
from trpd_agents.textenv.spec import EnvSpec

_START = 120.0  # seconds in which a new process has to say something; importing on a busy machine takes a few
_DEATHS = 2  # processes that may be lost before the rest is not tried any more
_TAIL = 300  # characters of what a process printed before it died
# Two seeds for the order of sets and dictionaries of strings, which otherwise changes from process to process unseen.
_HASH_SEEDS = ("1", "2")

OnFinding = Callable[[Finding], None]


class _Lost(Exception):
    """The process hung or died; the message says how."""


def examine(
    spec: EnvSpec | str, settings: Settings | None = None, on_finding: OnFinding = lambda finding: None
) -> list[Finding]:
    """Every finding about an environment; `on_finding` gets each as it comes. See `CHECKS` for what is checked.

    Of a mixture every member is checked, and its id stands before the names of its checks.

    Raises:
        UserError: there is no such environment, or it refuses its arguments.
    """
    spec = EnvSpec(spec) if isinstance(spec, str) else spec
    settings = settings or Settings()
    found: list[Finding] = []
    for member in members(spec):
        for finding in _examine_one(member.spec, settings):
            if spec.id == MIXTURE:
                finding = replace(finding, check=f"{member.spec.id}: {finding.check}")
            found.append(finding)
            on_finding(finding)
    return found


def _examine_one(spec: EnvSpec, settings: Settings) -> Iterator[Finding]:
    left = list(CHECKS)
    scripts: list[tuple[int, list[str], Any]] | None = None
    deaths = 0
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        while left:
            current = ""
            try:
                for what, value in _messages(run_checks, (spec, settings, left, str(output)), settings):
                    if what == "begin":
                        current, left = value, [name for name in left if name != value]
                    elif what == "finding":
                        yield value
                    elif what == "wrong":
                        yield from _only_here(spec, value)
                        return
                    elif what == "scripts":
                        scripts = value
            except _Lost as loss:
                deaths += 1
                yield replace(_lost(loss, output), check=current or "construction")
            if deaths >= _DEATHS:
                for name in left:
                    yield replace(skipped("not tried: its process had to be given up again and again"), check=name)
                left = []
        if scripts:
            yield replace(_elsewhere(spec, settings, scripts, output), check="process")
        yield replace(_printed(output), check="output")


def _elsewhere(spec: EnvSpec, settings: Settings, scripts: list[tuple[int, list[str], Any]], output: Path) -> Finding:
    """Whether a second process, with another order of sets, sees the same episodes."""
    again: list[tuple[int, list[str], Any]] = []
    try:
        for what, value in _messages(transcripts, (spec, settings, scripts, str(output)), settings, _HASH_SEEDS[1]):
            if what == "done":
                again = value
    except _Lost as loss:
        return _lost(loss, output)
    for (seed, _, one), (_, _, other) in zip(scripts, again, strict=True):
        if difference := first_difference(one, other):
            return error(
                f"in another process the episode of seed {seed} is a different one: {difference}",
                "Environments are played in several processes and again after a resume: the same seed is another task "
                "there.",
                "Sort sets before drawing from them or printing them, use no hash() of strings, no clock and no file "
                "that others write.",
            )
    return ok("a second process, with another order of sets, sees the same episodes")


def _printed(output: Path) -> Finding:
    text = output.read_text(errors="replace") if output.exists() else ""
    if not text.strip():
        return ok("nothing is printed")
    return warning(
        f"it prints: {' '.join(text.split())!r:.120} ({len(text)} characters in all)",
        "A run plays thousands of episodes; what they print hides its progress and slows it down.",
        "Remove the prints, or use the logging module.",
    )


def _lost(loss: _Lost, output: Path) -> Finding:
    text = output.read_text(errors="replace") if output.exists() else ""
    said = f"; it printed at the end: {text.strip()[-_TAIL:]!r}" if text.strip() else ""
    return error(
        f"{loss}{said}",
        "It takes down or holds up the process that plays it, and with it all episodes there.",
        "Find the call that never returns or kills the process. A loop that catches BaseException or waits in compiled "
        "code cannot be interrupted.",
    )


def _only_here(spec: EnvSpec, message: str) -> Iterator[Finding]:
    """The new process does not know the environment. Does this one?"""
    if spec.id not in gymnasium.registry:
        raise UserError(message)
    finding = error(
        f"it can be made in this process, but not in a new one: {message}",
        "Environments are played in worker processes, which get a name and arguments.",
        "Register it in a module and name it 'module:Id-v0', or name its file, 'path/file.py:Class'.",
    )
    yield replace(finding, check="construction")


def _messages(
    target: Callable[..., None], arguments: tuple[Any, ...], settings: Settings, hash_seed: str = _HASH_SEEDS[0]
) -> Iterator[tuple[str, Any]]:
    """What a new process reports, until it is done. It is gone afterwards, with all that it started."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, *arguments))
    with _environment_variable("PYTHONHASHSEED", hash_seed):
        process.start()
    theirs.close()
    doing = ""
    try:
        patience = _START
        while True:
            if not ours.poll(patience):
                raise _Lost(f"no answer for {patience:g} s{doing}; its process was killed")
            try:
                what, value = ours.recv()
            except EOFError:
                process.join(5)
                raise _Lost(f"the process died with exit code {process.exitcode}{doing}") from None
            patience = settings.patience
            if what == "note":
                doing = f" while trying {value}"
            elif what == "begin":
                doing = ""
            yield what, value
            if what in ("done", "wrong"):
                return
    finally:
        _end(process)
        ours.close()


def _end(process: Any) -> None:
    """Kill the process and its group. It may have ended by itself, and left others behind."""
    with contextlib.suppress(AttributeError, OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(10)
    if process.exitcode is None:
        raise RunError(f"process {process.pid} of the environment that is being checked cannot be killed")
    process.close()


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
