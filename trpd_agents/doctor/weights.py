"""Do changed weights arrive in the sampler, and does it play with them?

The student is changed a little, its weights are pushed as training pushes them, and the sampler's log-probabilities
have to follow; then the weights are put back, bit by bit, and pushed again. Doubles the student's memory for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trpd_agents.distributed import World
from trpd_agents.doctor.finding import Check, Finding, error, ok, skipped
from trpd_agents.doctor.subject import Subject, apart
from trpd_agents.errors import RunError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.student_weights import push_weights
from trpd_agents.rollout.weight_probe import CAUSES, WeightProbe, openings
from trpd_agents.scoring import score_tokens
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Trajectory

CHANGE = 0.02  # of each tensor's root mean square
EPISODES = 8


def _check(subject: Subject) -> Finding:
    if not subject.sampled:
        return skipped("no turn could be played")
    config, student, engine = subject.config, subject.student, subject.engine
    few = subject.sampled[:EPISODES]
    env = EnvSpec(config.env.id, config.env.kwargs)
    probe = WeightProbe(engine, student, World(), config.rollout.engine.max_gap)
    fix = f"{CAUSES}."
    try:
        probe.start(openings(env, student, [config.evaluation.seed]))
        before = probe.sampled(few)
        now = _scored(student, few)
        with changed(student):
            _push(subject)
            moved = float(apart(_scored(student, few), now).mean())
            probe.pushed()
            after = probe.sampled(subject.play(EPISODES))
        _push(subject)
        back = probe.sampled(subject.play(EPISODES))
    except RunError as told:
        _push(subject)
        return error(str(told).removesuffix(". " + CAUSES), fix)
    if _scored(student, few)[0].tobytes() != now[0].tobytes():
        return error(
            "the student is not what it was after its weights were put back", "Its state is not its parameters alone."
        )
    shared = "; sampler and trainer share their memory" if probe.shares_weights else ""
    gaps = ", ".join(f"{gap:.2g}" for gap in (before, after, back))
    return ok(f"a change of {moved:.2g} nats per token arrived; gaps before, with and after it: {gaps}{shared}")


def _push(subject: Subject) -> None:
    push_weights(subject.engine, subject.student, subject.engine.version + 1)


def _scored(lm: LanguageModel, sampled: list[Trajectory]) -> list[np.ndarray]:
    return [s.lt for s in score_tokens(lm, [t.tokens for t in sampled], [t.action_positions() for t in sampled])]


@contextmanager
def changed(lm: LanguageModel) -> Iterator[None]:
    """Inside, every weight of `lm` is another; after it, they are what they were, bit by bit."""
    parameters = list(lm.model.parameters())
    kept = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for p in parameters:
                noise = torch.randn(p.shape, generator=generator).to(p)
                p.add_(CHANGE * p.float().square().mean().sqrt().to(p.dtype) * noise)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)


WEIGHTS = Check("weights", "the sampler follows a change of the weights, and follows it back", _check)
