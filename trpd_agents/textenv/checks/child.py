"""The process in which an environment is tried: it runs checks, and reports as it goes along.

Invariant: it gets a name and arguments, never an object, and sends plain data. What it does not live to report, its
parent sees: each check is announced before it begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.checks import contract, cost, expert, garbage, playing, randomness, tool_schemas
from trpd_agents.textenv.checks.finding import Finding, Verdict, error, skipped
from trpd_agents.textenv.checks.probe import WATCHED, Probe, Settings
from trpd_agents.textenv.preflight import ADVICE
from trpd_agents.textenv.spec import EnvSpec

Check = Callable[[Probe], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "construction": contract.construction,
    "spaces": contract.spaces,
    "episodes": playing.episodes,
    "success": playing.success,
    "turn limit": playing.turn_limit,
    "expert": expert.expert,
    "determinism": randomness.determinism,
    "global random": randomness.global_random,
    "garbage": garbage.garbage,
    "tools": tool_schemas.tools,
    "reset": playing.reset_mid_episode,
    "step after the end": playing.step_after_end,
    "gymnasium": contract.gymnasium_checker,
    "speed": cost.speed,
    "size": cost.size,
    "leaks": cost.leaks,
}
NEEDED = ("construction", "spaces")  # without which nothing else can be tried
_TIMEOUTS = 2  # after so many nothing more is tried: each costs its whole limit
_WHY = "An environment that fails in mid-episode loses the episode: it is retried once and then left out of every rate."


def run_checks(connection: Connection, spec: EnvSpec, settings: Settings, names: Sequence[str], output: str) -> None:
    """Entry point of the child. Sends `(what, value)`: `begin` a check's name, `note` what it tries, `finding`, `wrong`
    (what was asked for cannot be done: the message), `scripts` (see `transcripts`) and at last `done`."""
    _settle(output)
    probe = Probe(spec, settings, note=lambda what: connection.send(("note", what)))
    reported: dict[str, str] = {}  # kinds of failure, and the check that reported each
    stuck: list[str] = []
    for name in names:
        connection.send(("begin", name))
        probe.deadline = time.monotonic() + settings.budget
        if stuck:
            findings = [skipped(f"not tried: {stuck[0]}")]
        else:
            try:
                findings = run_check(name, probe, reported, stuck)
            except UserError as mistake:
                connection.send(("wrong", str(mistake)))
                return
        for finding in findings:
            connection.send(("finding", dataclasses.replace(finding, check=name)))
        if name in NEEDED and any(finding.verdict is Verdict.ERROR for finding in findings):
            stuck.append(f"it failed the check '{name}'")
    if not reported and not stuck:
        probe.deadline = time.monotonic() + settings.budget
        connection.send(("begin", "process"))
        with contextlib.suppress(EnvironmentFailure):
            connection.send(("scripts", [(seed, *probe.record(seed)) for seed in probe.within(WATCHED)]))
    connection.send(("done", None))


def transcripts(
    connection: Connection, spec: EnvSpec, settings: Settings, scripts: list[tuple[int, list[str], Any]], output: str
) -> None:
    """Entry point of another child, which plays what the first has played: sends `done` with the same triples."""
    _settle(output)
    connection.send(("begin", "process"))
    probe = Probe(spec, settings)
    connection.send(("done", [(seed, actions, probe.replay(seed, actions)) for seed, actions, _ in scripts]))


def run_check(name: str, probe: Probe, reported: dict[str, str], stuck: list[str]) -> list[Finding]:
    """What one check finds; a failure that an earlier one has reported is not told again."""
    found: list[Finding] = []
    try:
        found.extend(CHECKS[name](probe))
    except EnvironmentFailure as failure:
        first = reported.setdefault(failure.kind, name)
        if failure.kind == "timeout":
            reported[f"timeout in {name}"] = name
            if sum(kind.startswith("timeout in") for kind in reported) >= _TIMEOUTS:
                stuck.append("it ran into the time limit again and again")
        if first == name:
            message = failure.message.removeprefix(f"environment {probe.spec.id}: ")
            found.append(error(message, _WHY, ADVICE.get(failure.kind, "")))
        else:
            found.append(skipped(f"could not be tried: {failure.kind}, see '{first}'"))
    except UserError as mistake:
        if name == "construction":
            raise
        found.append(error(str(mistake), "A run with this environment is refused.", "Do as it says."))
    except Exception as problem:
        found.append(error(f"raised {blame(problem)}", _WHY, "Find out why; the line is named."))
    return found


def _settle(output: str) -> None:
    """Be a process group of one's own, write what the environment prints to `output`, and die with the parent."""
    with contextlib.suppress(AttributeError, OSError):
        os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    with contextlib.suppress(AttributeError, OSError):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
