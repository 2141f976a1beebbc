"""The learning rate of a method: the one of the grid with the best mean success after training, on its own seeds."""

from __future__ import annotations

import math
from typing import NamedTuple

from trpd_agents.study.plan import Member, Plan
from trpd_agents.study.store import NotThere, StudyDirectory


class Trial(NamedTuple):
    """A learning rate on trial: mean success over its members, NaN unless all of them finished."""

    rate: float
    success: float
    finished: int
    members: int


def trials(member: Member, plan: Plan, directory: StudyDirectory) -> list[Trial]:
    """Every candidate of a member's learning rate, in the order of the grid."""
    found = []
    for rate, names in member.candidates.items():
        jobs = [plan.jobs[name] for name in names]
        done = [job for job in jobs if isinstance(job, Member) and directory.finished(job)]
        rates = [directory.evaluations(job)["after"]["success_rate"] for job in done]
        success = sum(rates) / len(rates) if len(done) == len(jobs) else math.nan
        found.append(Trial(rate, success, len(done), len(jobs)))
    return found


def choose_rate(member: Member, plan: Plan, directory: StudyDirectory) -> float:
    """The best candidate; of equals the smallest. A rate at which any member failed is not chosen.

    Raises:
        NotThere: no candidate has all its members.
    """
    whole = [trial for trial in trials(member, plan, directory) if not math.isnan(trial.success)]
    if not whole:
        raise NotThere("no learning rate could be chosen: at each of them a member failed")
    return min(whole, key=lambda trial: (-trial.success, trial.rate)).rate
