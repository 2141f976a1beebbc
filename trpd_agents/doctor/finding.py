"""What a check says, and how it is asked: one that raises has found something, too, and does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from trpd_agents.errors import EnvironmentFailure, RunError, UserError
from trpd_agents.textenv.checks.finding import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One check's result. `check` and `wanted` are filled in by `ask`; `fix` says what to do, where something is."""

    verdict: Verdict
    found: str
    fix: str = ""
    check: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Check(Generic[T]):
    """A question about a `T`, with what is wanted in words."""

    name: str
    wanted: str
    run: Callable[[T], Finding]


def ok(found: str) -> Finding:
    return Finding(Verdict.OK, found)


def skipped(found: str) -> Finding:
    return Finding(Verdict.SKIPPED, found)


def warning(found: str, fix: str) -> Finding:
    return Finding(Verdict.WARNING, found, fix)


def error(found: str, fix: str) -> Finding:
    return Finding(Verdict.ERROR, found, fix)


def ask(check: Check[T], about: T, through: tuple[type[Exception], ...] = ()) -> Finding:
    """The finding of a check; an exception is one. Only an interruption gets through, and what is named so."""
    try:
        found = check.run(about)
    except through:
        raise
    except EnvironmentFailure as failure:
        found = error(f"the environment failed ({failure.kind}): {failure.message}", "Try it with `trpd check`.")
    except (UserError, RunError) as told:
        found = error(str(told), "See what was found.")
    except Exception as raised:  # models, templates, environments and servers may raise anything
        message = str(raised).strip().splitlines()
        found = error(f"the check raised {type(raised).__name__}: {(message or ['without a word'])[0]}", UNEXPECTED)
    return replace(found, check=check.name, wanted=check.wanted)


def not_tried(check: Check[T], why: str) -> Finding:
    return replace(skipped(why), check=check.name, wanted=check.wanted)


def of_kind(findings: Sequence[Finding], verdict: Verdict) -> list[Finding]:
    return [finding for finding in findings if finding.verdict is verdict]


UNEXPECTED = "Nobody has foreseen this; training would most likely meet it, too."
