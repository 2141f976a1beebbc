"""The transformers engine in bfloat16: a copy of the student that is near it, and follows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trpd_agents import preparation, training
from trpd_agents.config import LoraConfig, ModelConfig, RolloutConfig, RunConfig, parse_config
from trpd_agents.distributed import World
from trpd_agents.errors import RunError, UserError
from trpd_agents.lora import adapted, add_adapters, merged_state
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Request, Sampling, TransformersEngine
from trpd_agents.rollout.captured import Program
from trpd_agents.rollout.open_engine import check_engine, open_engine
from trpd_agents.rollout.student_weights import plain_copy, push_weights
from trpd_agents.rollout.weight_probe import WeightProbe, openings
from trpd_agents.scoring import score_tokens
from trpd_agents.textenv import EnvSpec
from trpd_agents.training import train

ENV = EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4})
LORA = LoraConfig(rank=4, alpha=8.0)
Recipe = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def recipe(model_directory) -> Recipe:
    """`recipe(**sections)`: a run of two steps whose rollouts are in bfloat16; sections are merged in."""

    def build(**changes: dict[str, Any]) -> RunConfig:
        sections: dict[str, Any] = {
            "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}},
            "student": {"model": str(model_directory(0))},
            "teacher": {"model": str(model_directory(1))},
            "rollout": {"max_new_tokens": 3, "max_tokens": 200, "engine": {"dtype": "bfloat16"}},
            "credit": {"preset": "opd"},
            "learner": {"lr": 1e-2, "device": "cpu"},
            "training": {"steps": 2, "episodes_per_step": 8, "checkpoint_every": 1},
            "evaluation": {"episodes": 4, "every": 1},
        }
        for name, change in changes.items():
            sections[name] = {**sections[name], **change}
        return parse_config(sections)

    return build


def opened(config: RunConfig, lm: LanguageModel) -> TransformersEngine:
    engine = open_engine(config, lm, ExitStack())
    assert isinstance(engine, TransformersEngine)
    return engine


def played(engine: TransformersEngine, ends: frozenset[int]) -> list[Any]:
    collector = Collector(ENV, engine, engine.lm.tokenizer, Sampling(6, ends, seed=2), Limits(3, 1024))
    return collector.collect([Episode(seed, seed) for seed in range(6)])


def gap(lm: LanguageModel, engine: TransformersEngine) -> float:
    tokens, at = [np.arange(3, 90)], [np.arange(1, 87)]
    return float(np.abs(engine.logprobs(tokens, at)[0].lt - score_tokens(lm, tokens, at)[0].lt).mean())


@pytest.mark.parametrize("settings", [{}, {"rollout": {"engine": {"dtype": "float32"}}}])
def test_in_float32_the_engine_has_the_trained_weights_themselves(recipe, make_lm, settings):
    """`auto`, on a CPU, too: nothing is in bfloat16 that the learner does not compute in it."""
    lm = make_lm(0)
    config = recipe(**(settings or {"rollout": {"engine": "transformers"}}))
    assert opened(config, lm).lm is lm


def test_auto_follows_the_learner(recipe, make_lm):
    config = recipe(rollout={"engine": "transformers"}, learner={"dtype": "bfloat16"})
    assert opened(config, make_lm(0)).lm.model.dtype == torch.bfloat16


def test_the_copy_is_near_the_student_and_not_it(recipe, make_lm, ends):
    """What it reports are log-probabilities of a distribution, in float32."""
    lm = make_lm(0)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    engine = opened(recipe(), lm)
    assert 1e-4 < gap(lm, engine) < 0.1
    assert {p.dtype for p in engine.lm.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in engine.lm.model.buffers()} == {torch.float32}  # positions are computed with them
    probe = WeightProbe(engine, lm, World())
    assert probe.start(openings(ENV, lm, [1, 2])) > 0
    episodes = played(engine, ends)
    assert 1e-4 < probe.sampled(episodes) < 0.1
    for trajectory in episodes:
        at = np.flatnonzero(trajectory.authored("student"))
        (own,) = engine.logprobs([trajectory.tokens], [at], top_k=engine.lm.vocab_size)
        np.testing.assert_allclose(np.exp(own.top_lt.astype(np.float64)).sum(-1), 1, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())


def test_tied_weights_stay_tied_in_the_copy(make_lm):
    lm = make_lm(0)
    lm.model.config.tie_word_embeddings = True
    lm.model.tie_weights()
    copied = plain_copy(lm, torch.bfloat16).model
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight
    assert copied.get_output_embeddings().weight is not lm.model.get_output_embeddings().weight


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapters"])
def test_a_push_renews_the_copy_in_place(recipe, make_lm, lora, move):
    """A captured decoding pass reads these very addresses."""
    lm = make_lm(0)
    if lora:
        add_adapters(lm.model, LORA, seed=3)
        move(lm, 0.05)
    engine = opened(recipe(), lm)
    assert not adapted(engine.lm.model)
    assert gap(lm, engine) < 0.1
    own = engine.lm.model.state_dict()
    kept = {name: value.clone() for name, value in own.items()}
    move(lm, 0.1)
    assert gap(lm, engine) > 0.1
    push_weights(engine, lm, 1)
    assert gap(lm, engine) < 0.1 and engine.version == 1
    wanted = merged_state(lm.model) if lora else lm.model.state_dict()
    now = engine.lm.model.state_dict()
    assert now.keys() == wanted.keys() == own.keys()
    for name, value in now.items():
        assert value.data_ptr() == own[name].data_ptr()
        assert torch.equal(value, wanted[name].to(torch.bfloat16))
    assert any(not torch.equal(value, kept[name]) for name, value in now.items())


def test_a_replayed_decoding_pass_goes_on_with_the_new_weights(make_lm, ends, move):
    """It was captured before the push. What stands in for a graph here holds no addresses: those are tested above."""
    lm, programs = make_lm(0), []

    def recorded(program: Program) -> Program:
        programs.append(program)
        program()
        return program

    engine = TransformersEngine(plain_copy(lm, torch.bfloat16), recorded)
    requests = [Request(c, [5, 6, 7 + c], key=c) for c in range(5)]
    sampling = Sampling(8, ends, seed=1)
    engine.generate([Request(9, [5, 6], key=9)], sampling)  # one that stays: the memory of an empty cache is let go
    for _ in range(2):
        first = engine.generate(requests, sampling)
        engine.release(range(5))
    captured = len(programs)
    move(lm, 0.1)
    push_weights(engine, lm, 1)
    found = engine.generate(requests, sampling)
    assert captured and len(programs) == captured
    wanted = TransformersEngine(plain_copy(lm, torch.bfloat16), recorded).generate(requests, sampling)
    assert found == wanted and found != first


def test_a_missed_update_is_noticed_above_the_noise_of_bfloat16(recipe, make_lm, ends, move):
    lm = make_lm(0)
    engine = opened(recipe(), lm)
    probe = WeightProbe(engine, lm, World())
    probe.start(openings(ENV, lm, [1]))
    probe.sampled(played(engine, ends))
    move(lm, 0.02)
    with pytest.raises(RunError, match="disagree by|did not arrive"):
        probe.pushed()
    push_weights(engine, lm, 1)
    assert probe.pushed() < 0.1


def test_playing_ahead_keeps_adapters_in_a_copy_of_float32(recipe, make_lm, move):
    lm = make_lm(0)
    add_adapters(lm.model, LORA, seed=3)
    config = recipe(
        rollout={"engine": "transformers"},
        training={"staleness": 1},
        learner={"correction": "truncate", "lora": LORA.model_dump()},
    )
    engine = opened(config, lm)
    assert engine.lm is not lm and adapted(engine.lm.model)
    move(lm, 0.05)
    assert gap(lm, engine) > 1e-3
    push_weights(engine, lm, 1)
    assert gap(lm, engine) == 0


def result(path: Path) -> tuple[list[dict[str, Any]], bytes, Any]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.startswith(("seconds", "tokens_per"))} for line in lines]
    weights = (path / "student" / "model.safetensors").read_bytes()
    return metrics, weights, json.loads((path / "evaluations.json").read_text())


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "in step": {},
    "ahead": {"training": {"staleness": 1}, "learner": {"correction": "truncate"}},
    "adapters": {"learner": {"lora": {"rank": 2, "alpha": 4}}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_and_going_on_with_it(recipe, variant, tmp_path):
    """Every push passes the probe, evaluations play with it too, and resumed it is what it would have been."""
    config = recipe(**{k: {**recipe().model_dump(mode="json")[k], **v} for k, v in VARIANTS[variant].items()})
    whole = tmp_path / "whole"
    train(config, whole, quiet=True)
    lines = result(whole)[0]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["sampler_gap"] < 0.1 for line in lines)
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    shutil.rmtree(cut / "checkpoints" / "step-000002")
    shutil.rmtree(cut / "student")
    train(config, resume=cut, quiet=True)
    assert result(cut) == result(whole)


def test_every_evaluation_plays_with_the_weights_of_its_step(recipe, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []

    def checked(world: World, config: RunConfig, lm: LanguageModel, *rest: Any) -> Any:
        engine = rest[-2]
        for name, value in engine.lm.model.state_dict().items():
            assert torch.equal(value, lm.model.state_dict()[name].to(torch.bfloat16))
        seen.append(engine.lm.model.get_output_embeddings().weight.clone())
        return evaluate_model(world, config, lm, *rest)

    evaluate_model = training.evaluate_model
    monkeypatch.setattr(training, "evaluate_model", checked)
    monkeypatch.setattr(preparation, "evaluate_model", checked)
    train(recipe(evaluation={"teacher": False}), tmp_path / "run", quiet=True)
    assert len(seen) == 3  # before, after the first step, after the last
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_run_in_float32_differs(recipe, tmp_path):
    """The key reaches the engine: the same run without it samples with the trained weights, and has no gap."""
    train(recipe(rollout={"engine": "transformers"}, training={"steps": 1}), tmp_path / "run", quiet=True)
    assert result(tmp_path / "run")[0][0]["sampler_gap"] < 1e-5


def test_a_device_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr("trpd_agents.rollout.open_engine.has_bfloat16", lambda device: False)
    wanted, auto = (RolloutConfig.model_validate({"engine": {"dtype": name}}) for name in ("bfloat16", "auto"))
    with pytest.raises(UserError, match=r"rollout\.engine\.dtype is bfloat16, but cpu .* wanted float32, or auto"):
        check_engine(wanted, "anything", ModelConfig(model="anything"), torch.device("cpu"))
    check_engine(auto, "anything", ModelConfig(model="anything"), torch.device("cpu"))
