"""What a check says: a verdict and what was found, and where it is not well, why it matters and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """`ERROR`: training or evaluation goes wrong, here or in another framework that keeps to Gymnasium's contract.
    `WARNING`: it works, but costs something, or will surprise somebody. `SKIPPED`: there was nothing to try."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One result of one check; `why` and `fix` are empty where all is well."""

    check: str
    verdict: Verdict
    found: str
    why: str = ""
    fix: str = ""


def ok(found: str) -> Finding:
    return Finding("", Verdict.OK, found)


def skipped(found: str) -> Finding:
    return Finding("", Verdict.SKIPPED, found)


def warning(found: str, why: str, fix: str) -> Finding:
    return Finding("", Verdict.WARNING, found, why, fix)


def error(found: str, why: str, fix: str) -> Finding:
    return Finding("", Verdict.ERROR, found, why, fix)


def count(findings: Sequence[Finding], verdict: Verdict) -> int:
    return sum(finding.verdict is verdict for finding in findings)
