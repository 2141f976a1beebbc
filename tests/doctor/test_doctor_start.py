"""What `train` asks before its first step: it refuses what the doctor finds, and nobody notices it otherwise."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trpd_agents.preparation as preparation
from trpd_agents.config import RunConfig
from trpd_agents.doctor.examine import IN_PLAY, ON_PAPER, WITH_MODELS, examine
from trpd_agents.doctor.start import OF_LANGUAGE, OF_MODELS, check_start, unnoticed
from trpd_agents.doctor.subject import Subject
from trpd_agents.errors import RunError, UserError
from trpd_agents.progress import Progress
from trpd_agents.textenv.checks.finding import Verdict
from trpd_agents.training import train

ALL = (*ON_PAPER, *OF_LANGUAGE, *WITH_MODELS, *IN_PLAY)


_spec = importlib.util.spec_from_file_location("doctor_faults", Path(__file__).with_name("faults.py"))
assert _spec is not None and _spec.loader is not None
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)


def test_a_run_whose_teacher_is_off_by_one_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "teacher_of", lambda config, student, teachers, servers: faults.Late(teachers[""]))
    with pytest.raises(RunError, match=r"(?s)alignment: wanted .*off by one.*training\.doctor=false"):
        train(configure(), tmp_path / "refused", quiet=True)
    train(configure(training={"doctor": False}, credit={"preset": "opd"}), tmp_path / "trained", quiet=True)


def test_results_are_the_same_with_and_without(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    for name, doctor in (("with", True), ("without", False)):
        train(configure(training={"doctor": doctor}), tmp_path / name, quiet=True)

    def figures(name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]

    assert figures("with") == figures("without")
    one, other = ((tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == other


def test_models_that_do_not_fit_are_a_users_mistake(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    teacher = subject.teachers[""].tokenizer
    teacher.chat_template = teacher.chat_template.replace("<|im_end|>", "<|endoftext|>")
    with pytest.raises(UserError, match="end tokens: wanted"):
        check_start(subject, Progress(quiet=True))


def test_warnings_are_said(make_subject: Callable[..., Subject], capsys: pytest.CaptureFixture[str]) -> None:
    subject = make_subject()
    subject.teachers[""].model.generation_config.eos_token_id = 0
    findings = check_start(subject, Progress())
    assert [f.check for f in findings] == [check.name for check in (*OF_LANGUAGE, *OF_MODELS)]
    assert "doctor: warning, end tokens: turns end with '<|im_end|>' (2)" in capsys.readouterr().out


def test_generators_are_as_they_were() -> None:
    def drawn() -> tuple[float, ...]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(5)
    wanted = drawn()
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(5)
    with pytest.raises(KeyError), unnoticed():
        drawn()
        raise KeyError
    assert drawn() == wanted


def test_everything_is_asked_and_nothing_is_written(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []
    findings = examine(configure(), episodes=4, on_finding=lambda finding: heard.append(finding.check))
    assert heard == [f.check for f in findings] == [check.name for check in ALL]
    assert not [f for f in findings if f.verdict is Verdict.ERROR], findings
    assert all(f.wanted and f.found for f in findings) and not list(tmp_path.iterdir())
    quick = examine(configure(), quick=True)
    assert [f.check for f in quick] == heard
    left_out = {check.name for check in (*WITH_MODELS, *IN_PLAY)}
    assert {f.check for f in quick if f.verdict is Verdict.SKIPPED} == left_out


def test_what_cannot_be_had_does_not_stop_the_rest(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    findings = {f.check: f for f in examine(configure(teacher={"model": str(tmp_path / "nowhere")}))}
    assert findings["settings"].verdict is findings["models"].verdict is findings["tokenizers"].verdict is Verdict.ERROR
    assert "no such directory" in findings["models"].found
    assert findings["environment"].verdict is Verdict.OK
    assert {findings[check.name].verdict for check in (*OF_LANGUAGE, *WITH_MODELS, *IN_PLAY)} == {Verdict.SKIPPED}
