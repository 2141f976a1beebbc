"""Whole commands with every model on the pretended device: training, resuming, evaluating, imitating, the doctor."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, is_there, moved, observed
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import RunConfig
from trpd_agents.config.load import parse_config
from trpd_agents.distributed import World
from trpd_agents.doctor.examine import examine
from trpd_agents.evaluation import evaluate
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.weight_probe import WeightProbe, openings
from trpd_agents.teacher import LocalTeacher
from trpd_agents.teacher.cached import CachedTeacher
from trpd_agents.teacher.hinted import HintedTeacher
from trpd_agents.teacher.score_files import ScoreFiles
from trpd_agents.textenv import EnvSpec
from trpd_agents.training import train

HINTING = Path(__file__).parents[1] / "teacher" / "hinting_env.py"
TIMES = ("seconds", "tokens_per_second")


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, `auto` means the pretended device, wherever a device is picked."""

    def begin() -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("trpd_agents") and getattr(module, "pick_device", None) is not None:
                monkeypatch.setattr(module, "pick_device", lambda name="auto": DEVICE)

    return begin


@pytest.fixture
def configure(model_directory) -> Callable[..., RunConfig]:
    def build(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, Any] = {
            "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}, "workers": 0},
            "student": {"model": str(model_directory(0))},
            "teacher": {"model": str(model_directory(1))},
            "rollout": {"max_new_tokens": 3, "max_tokens": 200},
            "credit": {"preset": "tropd"},
            "learner": {"lr": 1e-3},
            "training": {"steps": 1, "episodes_per_step": 4, "group_size": 2, "checkpoint_every": 1},
            "evaluation": {"episodes": 2, "before": False, "teacher": False},
        }
        for name, change in changes.items():
            sections[name] = {**sections[name], **change}
        return parse_config(sections)

    return build


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if not name.startswith(TIMES)} for line in found]


def used(action: Callable[[], Any]) -> Any:
    """What `action` returns; it must have computed on the device, and much."""
    operations: list[object] = []
    with observed(lambda operation: operations.append(None)):
        found = action()
    assert len(operations) > 1000
    return found


def alike(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    numbers = {name: v for name, v in wanted.items() if isinstance(v, float | int)}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-4, nan_ok=True)


def test_a_run_and_its_going_on(configure, on_device, tmp_path):
    config, longer = configure(), configure(training={"steps": 2})
    train(longer, tmp_path / "here", quiet=True)
    on_device()
    used(lambda: train(config, tmp_path / "there", quiet=True))
    used(lambda: train(longer, resume=tmp_path / "there", may_differ=["training.steps"], quiet=True))
    here, there = lines(tmp_path / "here"), lines(tmp_path / "there")
    assert len(here) == len(there) == 2
    for h, t in zip(here, there, strict=True):
        alike(t, h)


def test_a_run_with_everything_beside(configure, on_device, tmp_path):
    """Adapters, whole distributions from a cache of scores, corrected ratios, mini-batches, one step ahead."""
    pytest.importorskip("peft")
    config = configure(
        credit={"preset": "opd", "estimator": {"kind": "full"}},
        learner={"lora": {"rank": 4, "alpha": 8.0}, "minibatches": 2, "correction": {"kind": "mask"}},
        training={"steps": 2, "staleness": 1, "checkpoint_every": 2},
        teacher={"cache": str(tmp_path / "scores")},
    )
    train(config, tmp_path / "here", quiet=True)
    on_device()
    used(lambda: train(config, tmp_path / "there", quiet=True))
    used(lambda: train(config, resume=tmp_path / "there", quiet=True))
    for h, t in zip(lines(tmp_path / "here"), lines(tmp_path / "there"), strict=True):
        alike(
            {**t, "teacher_cache_hits": h["teacher_cache_hits"], "teacher_cache_misses": h["teacher_cache_misses"]}, h
        )


def test_evaluation(make_lm):
    settings = {"episodes": 6, "max_turns": 3, "max_new_tokens": 5, "workers": 0}
    wanted = evaluate(make_lm(0), "GuessNumber-v0", **settings)
    assert used(lambda: evaluate(moved(make_lm(0)), "GuessNumber-v0", **settings)) == wanted


def test_imitation_of_an_expert(model_directory, on_device, tmp_path):
    on_device()
    arguments = ["sft", "--env", "GuessNumber-v0", "--expert", "--model", str(model_directory(0))]
    arguments += ["--out", str(tmp_path / "made"), "--demonstrations", "6", "--updates", "2", "--batch", "4"]
    result = used(lambda: CliRunner().invoke(app, arguments, catch_exceptions=False))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "made" / "model.safetensors").is_file()


def test_the_doctor_finds_the_same(configure, on_device):
    config = configure()
    wanted = {f.check: f.verdict for f in examine(config, episodes=2)}
    on_device()
    assert {f.check: f.verdict for f in used(lambda: examine(config, episodes=2))} == wanted


def played(lm: LanguageModel, env: EnvSpec, ends: frozenset[int]) -> list[Any]:
    engine = TransformersEngine(lm)
    return Collector(env, engine, lm.tokenizer, Sampling(5, ends, seed=2), Limits(2, 1024)).collect(
        [Episode(seed, seed) for seed in range(4)]
    )


@pytest.mark.parametrize("kind", [LocalTeacher, HintedTeacher])
def test_teachers_and_their_cache(make_lm, ends, tmp_path, kind):
    episodes = played(make_lm(0), EnvSpec(f"{HINTING}:Number", {"high": 12}), ends)
    settings = {"top_k": 4, "entropy": True, "keep_hidden": True}
    here = kind(make_lm(1), **settings)
    there = CachedTeacher(kind(moved(make_lm(1)), **settings), ScoreFiles(tmp_path, 10**8), "one", device=DEVICE)
    wanted = here.score(episodes)
    for found in (there.score(episodes), there.score(episodes)):  # computed, and from disk
        for f, w in zip(found, wanted, strict=True):
            for name in ("positions", "lt", "top_lt", "top_ids", "entropy"):
                np.testing.assert_allclose(getattr(f, name), getattr(w, name), atol=1e-5)
            assert is_there(f.hidden)
            distribution = there.log_distribution(f.hidden).cpu()
            torch.testing.assert_close(distribution, here.log_distribution(w.hidden), atol=1e-5, rtol=1e-5)


def test_the_weight_probe(make_lm, ends):
    env = EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4})
    lm = moved(make_lm(0))
    engine = TransformersEngine(LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.ref))
    probe = WeightProbe(engine, lm, World())
    assert probe.start(openings(env, lm, [1, 2])) < 1e-5
    assert probe.sampled(played(engine.lm, env, ends)) < 1e-5
    with torch.no_grad():
        for p in lm.model.parameters():
            p.mul_(1.01)
    engine.load_weights(lm.model.state_dict(), 1)
    assert probe.pushed() < 1e-5
