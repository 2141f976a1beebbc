"""The checks that look at models, each with a fault that it has to find and without one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trpd_agents.rollout.transformers_engine as transformers_engine
from trpd_agents.doctor.alignment import ALIGNMENT
from trpd_agents.doctor.determinism import DETERMINISM
from trpd_agents.doctor.finding import Finding, ask
from trpd_agents.doctor.sampler import SAMPLER, chances_of, draws_of
from trpd_agents.doctor.subject import Subject
from trpd_agents.doctor.weights import WEIGHTS, changed
from trpd_agents.rollout import TransformersEngine
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv.checks.finding import Verdict
from trpd_agents.trajectory import Scores, Trajectory

Make = Callable[..., Subject]
_spec = importlib.util.spec_from_file_location("doctor_faults", Path(__file__).with_name("faults.py"))
assert _spec is not None and _spec.loader is not None
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)

CHECKS = (ALIGNMENT, DETERMINISM, SAMPLER, WEIGHTS)


def found(check: Any, subject: Subject) -> Finding:
    return ask(check, subject)


def test_all_is_well_and_nothing_is_changed(make_subject: Make) -> None:
    subject = make_subject()
    models = (subject.student.model, subject.teachers[""].model)
    before = [p.clone() for model in models for p in model.parameters()]
    findings = {check.name: found(check, subject) for check in CHECKS}
    assert {f.verdict for f in findings.values()} == {Verdict.OK}, findings
    assert all(f.wanted and not f.fix for f in findings.values())
    assert all(torch.equal(p, old) for p, old in zip((p for m in models for p in m.parameters()), before, strict=True))
    assert "share their memory" in findings["weights"].found
    assert found(WEIGHTS, make_subject(engine=faults.Copying)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (faults.Early, "one position later: they are off by one"),
        (faults.Late, "one position earlier: they are off by one"),
        (faults.Misplaced, "other positions"),
        (faults.Scaled, "nats per token away from a bare forward pass"),
    ],
)
def test_misaligned_scores(make_subject: Make, teacher: Any, told: str) -> None:
    finding = found(ALIGNMENT, make_subject(teacher=teacher))
    assert finding.verdict is Verdict.ERROR and told in finding.found and finding.fix


def test_greedy_choices_have_to_be_the_likeliest(make_subject: Make, make_lm: Any) -> None:
    """A teacher that plays with other weights than it scores with: guidance and evaluation would be somebody else's."""
    subject = make_subject()
    subject.teacher.engine = TransformersEngine(make_lm(2))  # type: ignore[misc]
    finding = found(ALIGNMENT, subject)
    assert finding.verdict is Verdict.ERROR and "chooses greedily" in finding.found


def test_a_teacher_of_several_parts_is_held_against_what_it_reports(make_subject: Make, make_lm: Any) -> None:
    subject = make_subject()
    subject.teachers = {"a": make_lm(1), "b": make_lm(2)}
    assert found(ALIGNMENT, subject).verdict is Verdict.OK
    subject.teacher = faults.Late(make_lm(1))
    assert "what it reported while it played" in found(ALIGNMENT, subject).found


@pytest.mark.parametrize(
    ("teacher", "verdict"),
    [(faults.Noisy, Verdict.ERROR), (faults.SlightlyNoisy, Verdict.WARNING), (faults.Crowded, Verdict.ERROR)],
)
def test_a_teacher_that_does_not_repeat_itself(make_subject: Make, teacher: Any, verdict: Verdict) -> None:
    finding = found(DETERMINISM, make_subject(teacher=teacher))
    assert finding.verdict is verdict and "nats" in finding.found and finding.fix


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (faults.truncated(0.9), "top-p"),
        (faults.truncated(0.7), "top-p"),
        (faults.heated(0.5, told=False), "temperature below 1"),
        (faults.heated(2.0, told=False), "a temperature above 1"),
        (faults.heated(0.5, told=True), "nats per token off"),
    ],
)
def test_a_sampler_of_another_distribution(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch, draw: Any, told: str
) -> None:
    monkeypatch.setattr(transformers_engine, "sample", draw)
    finding = found(SAMPLER, make_subject())
    assert finding.verdict is Verdict.ERROR and told in finding.found, finding.found


def test_a_faithful_sampler_is_not_accused(make_subject: Make) -> None:
    """Two of the three chances are about uniform over many samples; that of the tails is on the safe side."""
    subject = make_subject()
    config = subject.config
    chances = []
    for seed in range(12):
        evaluation = config.evaluation.model_copy(update={"seed": 5000 + 100 * seed})
        subject.config = config.model_copy(update={"evaluation": evaluation})
        chances.append(chances_of(draws_of(subject.student, subject.play(8))))
    tails, *others = np.array(chances).T
    assert np.min(chances) > 1e-4 and 0.2 < np.median(others) < 0.8 and np.median(tails) > 0.5


@pytest.mark.parametrize("engine", [faults.Undelivered, faults.HalfDelivered])
def test_weights_that_do_not_arrive(make_subject: Make, engine: Any) -> None:
    subject = make_subject(engine=engine)
    before = [p.clone() for p in subject.student.model.parameters()]
    finding = found(WEIGHTS, subject)
    assert finding.verdict is Verdict.ERROR and finding.fix
    assert all(torch.equal(p, old) for p, old in zip(subject.student.model.parameters(), before, strict=True))


def test_weights_are_put_back_bit_by_bit_whatever_happens(make_lm: Any) -> None:
    lm = faults.twin(make_lm(0))
    before = [p.clone() for p in lm.model.parameters()]
    with pytest.raises(KeyError), changed(lm):
        assert not any(torch.equal(p, old) for p, old in zip(lm.model.parameters(), before, strict=True))
        raise KeyError
    assert all(torch.equal(p, old) for p, old in zip(lm.model.parameters(), before, strict=True))


def test_an_exception_is_a_finding(make_subject: Make) -> None:
    class Broken(LocalTeacher):
        def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
            raise ZeroDivisionError("who would have thought\nsecond line")

    finding = found(DETERMINISM, make_subject(teacher=Broken))
    assert finding.verdict is Verdict.ERROR
    assert finding.found == "the check raised ZeroDivisionError: who would have thought"


def test_without_a_turn_there_is_nothing_to_check(make_subject: Make) -> None:
    subject = make_subject()
    subject.sampled = []
    assert {found(check, subject).verdict for check in CHECKS} == {Verdict.SKIPPED}
