"""The checks that play whole episodes: the better teacher, divergence and failure, and what the run will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trpd_agents.doctor.cost as cost
from trpd_agents.config import RunConfig
from trpd_agents.doctor.cost import MEMORY, TIME, timed_step
from trpd_agents.doctor.episodes import BETTER, PREDICTION, ROOM, Played, play_both, predicts
from trpd_agents.doctor.examine import open_run
from trpd_agents.doctor.finding import ask
from trpd_agents.models import LanguageModel
from trpd_agents.preparation import subject_of
from trpd_agents.progress import Progress
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv.checks.finding import Verdict
from trpd_agents.trajectory import Scores, Trajectory


def leaning(make_lm: Callable[..., LanguageModel], path: Path, seed: int, weight: float) -> Path:
    """A model that ends its turns more readily than the others, or less."""
    lm = make_lm(seed)
    with torch.no_grad():
        lm.model.lm_head.weight[lm.tokenizer.eos_token_id] += weight
    lm.save(path)
    return path


@pytest.fixture(scope="module")
def talkative(make_lm: Callable[..., LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leaning(make_lm, tmp_path_factory.mktemp("talkative") / "model", 3, -1.0)


@pytest.fixture(scope="module")
def brief(make_lm: Callable[..., LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leaning(make_lm, tmp_path_factory.mktemp("brief") / "model", 0, 0.3)


@pytest.fixture
def play(configure: Callable[..., RunConfig], env_file: Path) -> Callable[..., Played]:
    """`play(student, teacher, episodes)` in an environment that wants short answers."""
    opened = ExitStack()

    def build(student: Path, teacher: Path, episodes: int = 24, **changes: Any) -> Played:
        env = {"id": f"{env_file}:Short", "kwargs": {}, "workers": 0}
        models = {"student": {"model": str(student)}, "teacher": {"model": str(teacher)}}
        config = configure(env=env, **models, **changes)
        ready = open_run(config, Progress(quiet=True), opened)
        return play_both(subject_of(config, ready), ready, episodes, Progress(quiet=True))

    return build


def test_who_is_better(play: Any, brief: Path, talkative: Path) -> None:
    worse = ask(BETTER, played := play(brief, talkative))
    assert played.student.success_rate.mean > 0.5 and played.student.episodes == 24 == len(played.episodes)
    assert worse.verdict is Verdict.WARNING and worse.fix
    better = ask(BETTER, play(talkative, brief))
    assert better.verdict is Verdict.OK and "difference +" in better.found
    same = ask(BETTER, play(brief, brief))
    assert same.verdict is Verdict.WARNING and "no better" in same.fix


class Grading(LocalTeacher):
    """Finds fault with everything that is said in the episodes of some seeds."""

    def __init__(self, lm: LanguageModel, blamed: set[int]):
        super().__init__(lm)
        self.blamed = blamed

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        found = super().score(trajectories)
        off = [3.0 if t.seed in self.blamed else 0.0 for t in trajectories]
        own = [t.logprobs[s.positions] for t, s in zip(trajectories, found, strict=True)]
        return [replace(s, lt=ls - by) for s, ls, by in zip(found, own, off, strict=True)]


def test_divergence_and_failure(play: Any, model_directory: Any) -> None:
    played = play(model_directory(0), model_directory(1))
    counted = [t for t in played.episodes if any(turn.stop == "end" for turn in t.turns)]
    failed = {t.seed for t in counted if not t.success}
    won = {t.seed for t in counted if t.success}
    assert failed and won
    lm = played.subject.teachers[""]
    for blamed, area in ((failed, 1.0), (won, 0.0), (set(), 0.5)):
        played.subject.teacher = Grading(lm, blamed)
        assert predicts(played).estimate.mean == pytest.approx(area)
        finding = ask(PREDICTION, played)
        assert finding.verdict is Verdict.OK and f"AUROC {area:.2f}" in finding.found
    alike = replace(played, episodes=[t for t in played.episodes if t.success])
    assert ask(PREDICTION, alike).verdict is Verdict.SKIPPED


def test_what_is_cut_off(play: Any, model_directory: Any, talkative: Path) -> None:
    finding = ask(ROOM, play(talkative, model_directory(1)))
    assert finding.verdict is Verdict.WARNING and "raise rollout.max_new_tokens" in finding.fix
    cut = [turn.stop for t in (play(talkative, model_directory(1))).episodes for turn in t.turns]
    assert f"{cut.count('length') / len(cut):.0%} of actions are cut off at 8 tokens" in finding.found
    tight = ask(ROOM, play(model_directory(0), model_directory(1), rollout={"max_new_tokens": 8, "max_tokens": 70}))
    assert "0% of episodes end with it full" in tight.found


def test_a_timed_step_moves_no_weight(play: Any, model_directory: Any) -> None:
    played = play(model_directory(0), model_directory(1), 8)
    model = played.subject.student.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seconds = timed_step(played)
    assert seconds.keys() == {"rollout", "score", "update"} and all(spent > 0 for spent in seconds.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    finding = ask(TIME, played)
    assert finding.verdict is Verdict.OK and "for 2 steps and 3 evaluations" in finding.found


def test_time_and_memory_that_are_not_there(play: Any, model_directory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(model_directory(0), model_directory(1), 8)
    training = played.subject.config.training.model_copy(update={"steps": 10**9})
    played.subject.config = played.subject.config.model_copy(update={"training": training})
    assert ask(TIME, played).verdict is Verdict.WARNING
    assert ask(MEMORY, played).verdict is Verdict.OK
    parameters = sum(p.numel() for p in played.subject.student.model.parameters())
    for here, verdict in ((2 * 10**7, Verdict.WARNING), (parameters, Verdict.ERROR)):
        monkeypatch.setattr(cost, "_memory_of", lambda device, here=here: here)
        finding = ask(MEMORY, played)
        assert finding.verdict is verdict and f"{parameters:,} trained" in finding.found, finding


def test_the_interval_of_a_difference_is_told(play: Any, brief: Path, talkative: Path) -> None:
    finding = ask(BETTER, play(talkative, brief))
    numbers = finding.found.split("difference ")[1]
    mean, low, high = (float(word.strip("[], ")) for word in numbers.split())
    assert low <= mean <= high and np.isfinite([low, mean, high]).all()
