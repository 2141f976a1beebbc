"""An update on the pretended device, by every estimator and stream, against the same on the CPU."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, is_there, moved

from trpd_agents.config import LearnerConfig, LoraConfig
from trpd_agents.config.correction import CorrectionConfig
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import (
    BernoulliGate,
    ForwardKLOutliers,
    FullEstimator,
    OccupancyRule,
    PrefixGuidance,
    SoftGate,
    TopKEstimator,
    TurnMeanNormaliser,
)
from trpd_agents.credit.presets import PRESETS
from trpd_agents.distributed import World
from trpd_agents.imitation import imitate
from trpd_agents.learner import Learner
from trpd_agents.learner import learner as learner_module
from trpd_agents.learner.correction import correct, seen_by_trainer
from trpd_agents.lora import add_adapters
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Plan, Sampling, TransformersEngine
from trpd_agents.teacher import LocalTeacher, OracleTeacher, RoutedTeacher
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Trajectory, pad_scored

METHODS = {
    "sampled": CreditConfig(),
    "all streams": CreditConfig(
        gate=BernoulliGate(), outlier=ForwardKLOutliers(top_k=8), guidance=PrefixGuidance(beta=0.5, turns=1)
    ),
    "full": CreditConfig(rule=OccupancyRule(budget=20.0), estimator=FullEstimator()),
    "top-k": CreditConfig(
        gate=SoftGate(),
        outlier=ForwardKLOutliers(top_k=3, renormalise=True, gradient="score"),
        estimator=TopKEstimator(top_k=5),
        normaliser=TurnMeanNormaliser(share=0.7),
    ),
}
PLAIN = LearnerConfig(lr=1e-3, token_budget=300)


@pytest.fixture(scope="module")
def guided(make_lm, ends) -> list[Trajectory]:
    """Conversations of different lengths whose first turn is the teacher's."""
    lm = make_lm(0)
    collector = Collector(
        EnvSpec("GuessNumber-v0", {"high": 7}),
        TransformersEngine(lm),
        lm.tokenizer,
        Sampling(max_new_tokens=5, end_ids=ends, seed=2),
        Limits(max_turns=2),
    )
    guide = Plan(TransformersEngine(make_lm(1)), PrefixGuidance(turns=1), progress=0.0)
    return collector.collect([Episode(seed, seed) for seed in range(3)], guide)


def played_by(lm: LanguageModel, env: EnvSpec, ends: frozenset[int], seeds: Iterable[int]) -> list[Trajectory]:
    sampling = Sampling(max_new_tokens=5, end_ids=ends, seed=2)
    collector = Collector(env, TransformersEngine(lm), lm.tokenizer, sampling, Limits(max_turns=2))
    return collector.collect([Episode(seed, seed) for seed in seeds])


def learned(
    student: LanguageModel,
    teacher: LanguageModel,
    played: list[Trajectory],
    method: CreditConfig,
    config: LearnerConfig = PLAIN,
    updates: int = 1,
) -> tuple[LanguageModel, Learner, list[dict[str, float]]]:
    """Scored, credited and learned from, with the weights of the moment each time."""
    taught = LocalTeacher(teacher, top_k=64, entropy=True, keep_hidden=True)
    learner = Learner(student, config)
    figures = []
    for step in range(updates):
        batch = [dataclasses.replace(t, scores=s) for t, s in zip(played, taught.score(played), strict=True)]
        seen = seen_by_trainer(student, batch, config)
        credit = assign_credit(pad_scored(seen), method, step=step)
        credit, found = correct(World(), credit, method, batch, seen, config.correction)
        figures.append(learner.update(seen, credit, method, taught, progress=0.0) | found)
    return student, learner, figures


def same_model(there: LanguageModel, here: LanguageModel, tolerance: float = 1e-5) -> None:
    found, wanted = there.model.state_dict(), here.model.state_dict()
    assert all(is_there(value) for value in found.values())
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].cpu(), value, atol=tolerance, rtol=tolerance)


def same_figures(found: list[dict[str, float]], wanted: list[dict[str, float]], tolerance: float = 1e-4) -> None:
    for f, w in zip(found, wanted, strict=True):
        assert f == pytest.approx(w, rel=tolerance, abs=tolerance)


CONFIGS = {
    "plain": PLAIN,
    "checkpointed": PLAIN.model_copy(update={"activation_checkpointing": True}),
    "clipped": PLAIN.model_copy(update={"minibatches": 2, "epochs_per_batch": 2, "clip_ratio": 0.2}),
    "truncated": PLAIN.model_copy(update={"correction": CorrectionConfig(kind="truncate", limit=1.01)}),
    "masked": PLAIN.model_copy(update={"correction": CorrectionConfig(kind="mask", limit=1.5)}),
}


@pytest.mark.parametrize(
    ("name", "setting"),
    [*((name, "plain") for name in METHODS), *(("all streams", s) for s in CONFIGS if s != "plain")],
)
def test_an_update(make_lm, guided, name, setting, monkeypatch):
    monkeypatch.setattr(learner_module, "position_chunk", lambda vocab_size: 16)
    arguments = (guided, METHODS[name], CONFIGS[setting])
    models = [make_lm(seed, dtype=torch.float64) for seed in (0, 1, 0, 1)]  # Adam makes much of a gradient's last bits
    wanted, _, figures = learned(*models[:2], *arguments)
    found, _, there = learned(*map(moved, models[2:]), *arguments)
    same_model(found, wanted)
    same_figures(there, figures)


def test_every_preset(make_lm, guided):
    for name, preset in PRESETS.items():
        models = [make_lm(seed, dtype=torch.float64) for seed in (0, 1, 0, 1)]
        wanted, _, figures = learned(*models[:2], guided[:2], preset.config)
        found, _, there = learned(*map(moved, models[2:]), guided[:2], preset.config)
        same_model(found, wanted)
        same_figures(there, figures)
        assert name


def test_an_oracle_beside_a_model(make_lm, ends, tokenizer):
    """Two teachers' whole distributions in one micro-batch: the oracle's were made on the CPU."""
    games = [EnvSpec("GuessNumber-v0", {"high": 7}), EnvSpec("KeyChain-v0", {"length": 2, "decoys": 2})]
    found = []
    for place in (lambda lm: lm, moved):
        lm = place(make_lm(0, dtype=torch.float64))
        played = [
            *played_by(lm, games[0], ends, seeds=range(2)),
            *(dataclasses.replace(t, id=t.id + 9) for t in played_by(lm, games[1], ends, seeds=range(2))),
        ]
        teachers = {
            "model": LocalTeacher(place(make_lm(1, dtype=torch.float64)), keep_hidden=True),
            "oracle": OracleTeacher(tokenizer, len(tokenizer), keep_hidden=True),
        }
        teacher = RoutedTeacher(teachers, lambda env: "oracle" if "KeyChain" in env else "model")
        batch = [dataclasses.replace(t, scores=s) for t, s in zip(played, teacher.score(played), strict=True)]
        learner = Learner(lm, PLAIN.model_copy(update={"token_budget": 4096}))
        credit = assign_credit(pad_scored(batch), METHODS["full"])
        learner.update(batch, credit, METHODS["full"], teacher, progress=0.0)
        found.append(lm)
    same_model(found[1], found[0], 1e-4)


def test_models_that_do_not_pack(make_lm, guided):
    """A row for each sequence, padded."""
    models = [make_lm(0), make_lm(1), moved(make_lm(0)), moved(make_lm(1))]
    for lm in models:
        lm.__dict__["packs"] = False
    wanted, _, figures = learned(*models[:2], guided, METHODS["full"])
    found, _, there = learned(*models[2:], guided, METHODS["full"])
    same_model(found, wanted)
    same_figures(there, figures)


def test_adapters(make_lm, guided):
    pytest.importorskip("peft")
    found = []
    for place in (lambda lm: lm, moved):
        lm = place(make_lm(0))
        add_adapters(lm.model, LoraConfig(rank=4, alpha=8.0), seed=3)
        lm.model.double()
        found.append(learned(lm, place(make_lm(1)), guided, METHODS["all streams"]))
    (here, _, figures), (there, _, figures_there) = found
    same_model(there, here, 1e-4)  # a tenth of a first step of Adam's, which goes by signs where gradients are small
    same_figures(figures_there, figures)


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimizer_goes_on_after_a_restart(make_lm, guided, fused):
    """Its state comes from a file on the CPU and has to be on the device again before the next step."""

    def begin(lm: LanguageModel) -> Learner:
        learner = Learner(lm, PLAIN)
        groups = {"lr": PLAIN.lr, "betas": PLAIN.betas, "weight_decay": PLAIN.weight_decay}
        learner.optimizer = torch.optim.AdamW(learner.parameters, **groups, fused=fused)
        return learner

    def step(lm: LanguageModel, learner: Learner, teacher: LocalTeacher) -> None:
        batch = [dataclasses.replace(t, scores=s) for t, s in zip(guided, teacher.score(guided), strict=True)]
        method = METHODS["sampled"]
        learner.update(batch, assign_credit(pad_scored(batch), method), method, teacher, progress=0.0)

    teacher = LocalTeacher(moved(make_lm(1)))
    lm = moved(make_lm(0))
    learner = begin(lm)
    step(lm, learner, teacher)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    weights = copy.deepcopy(lm.model.state_dict())
    step(lm, learner, teacher)

    again = moved(make_lm(5))
    again.model.load_state_dict(weights)
    restarted = begin(again)
    restarted.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    assert all(is_there(s["exp_avg"]) for s in restarted.optimizer.state.values())
    step(again, restarted, teacher)
    for name, value in lm.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name].cpu(), value.cpu()), name


def test_imitation(make_lm, guided):
    from trpd_agents.config import ImitationConfig

    settings = ImitationConfig(demonstrations=5, updates=2, batch=4, lr=1e-3)
    here, there = make_lm(0), moved(make_lm(0))
    for lm in (here, there):
        imitate(lm, guided, settings, learner=PLAIN)
    same_model(there, here)


def test_half_precision_is_autocasts(make_lm, guided):
    """The learner computes in bfloat16 over float32 weights: finite, of the right size, and float32 in the end."""
    config = PLAIN.model_copy(update={"dtype": "bfloat16"})
    student, teacher = moved(make_lm(0)), moved(make_lm(1))
    teacher.bfloat16 = True
    for name, method in METHODS.items():
        _, _, figures = learned(make_lm(0), make_lm(1), guided, method)
        _, _, found = learned(moved(make_lm(0)), teacher, guided, method, config)
        assert found[0]["grad_norm"] == pytest.approx(figures[0]["grad_norm"], rel=0.3), name
    assert all(p.dtype == torch.float32 and p.device == DEVICE for p in student.model.parameters())
    assert np.isfinite(figures[0]["loss"])
