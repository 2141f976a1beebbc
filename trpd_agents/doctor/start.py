"""What every training run begins with: the checks that take a moment.

Invariant: nobody can tell afterwards that they were made. Conversations are keyed apart and released, and generators
of random numbers are as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from trpd_agents.doctor.alignment import ALIGNMENT
from trpd_agents.doctor.determinism import DETERMINISM
from trpd_agents.doctor.ends import ENDS
from trpd_agents.doctor.finding import Check, Finding, ask, of_kind
from trpd_agents.doctor.sampler import SAMPLER
from trpd_agents.doctor.speakers import Language, language_of
from trpd_agents.doctor.subject import Subject
from trpd_agents.doctor.template import TEMPLATE
from trpd_agents.doctor.tokens import TOKENS
from trpd_agents.errors import RunError, UserError
from trpd_agents.progress import Progress
from trpd_agents.textenv.checks.finding import Verdict

OF_LANGUAGE: tuple[Check[Language], ...] = (TOKENS, ENDS, TEMPLATE)
OF_MODELS: tuple[Check[Subject], ...] = (ALIGNMENT, DETERMINISM, SAMPLER)
EPISODES = 8  # whose beginnings are played


def check_start(subject: Subject, progress: Progress) -> list[Finding]:
    """Refuse a run that cannot learn; warnings are said.

    Raises:
        UserError: the models do not fit together, or whatever else training would be refused for.
        RunError: teacher or sampler do not do what they should.
    """
    with unnoticed():
        subject.sampled = subject.play(EPISODES)
        tasks = {(t.env_id, t.instructions): (t.instructions, t.tools) for t in subject.sampled}
        language = language_of(subject.config, subject.student, subject.teachers, tasks.values())
        of_language = [ask(check, language) for check in OF_LANGUAGE]
        of_models = [ask(check, subject, through=(UserError,)) for check in OF_MODELS]
    findings = [*of_language, *of_models]
    for finding in of_kind(findings, Verdict.WARNING):
        progress.say(f"doctor: warning, {finding.check}: {finding.found}. {finding.fix}")
    if wrong := of_kind(findings, Verdict.ERROR):
        raise (UserError if of_kind(of_language, Verdict.ERROR) else RunError)(refusal(wrong))
    return findings


def refusal(wrong: Sequence[Finding]) -> str:
    lines = [f"{f.check}: wanted {f.wanted}; found: {f.found}. {f.fix}" for f in wrong]
    return (
        "the run would not learn what it should.\n"
        + "\n".join(lines)
        + ("\n`trpd doctor CONFIG` checks everything; training.doctor=false trains nevertheless")
    )


@contextmanager
def unnoticed() -> Iterator[None]:
    """Inside, whatever is drawn from the process's generators of random numbers is drawn for nobody."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
