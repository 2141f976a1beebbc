"""Adapters: nothing changes at the start, they alone are trained, and what is saved computes the same."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trpd_agents import lora
from trpd_agents.config import LearnerConfig, LoraConfig
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.errors import UserError
from trpd_agents.learner import Learner
from trpd_agents.lora import ADAPTER, add_adapters, load_adapters, merged_state, require_peft
from trpd_agents.models import LanguageModel, load_model
from trpd_agents.rollout import Request, Sampling, TransformersEngine
from trpd_agents.scoring import score_tokens
from trpd_agents.teacher import LocalTeacher
from trpd_agents.trajectory import Outcome, Trajectory, Turn, pad_scored

LORA = LoraConfig(rank=4, alpha=8.0)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def episodes(lm: LanguageModel, n: int = 6) -> list[Trajectory]:
    sampling = Sampling(max_new_tokens=6, end_ids=frozenset({0}))
    answers = TransformersEngine(lm).generate([Request(i, [1 + i, 2], i) for i in range(n)], sampling)
    return [
        Trajectory(
            id=i,
            env_id="",
            env_kwargs={},
            seed=i,
            tokens=np.array([1 + i, 2, *answer.tokens], dtype=np.int32),
            logprobs=np.array([np.nan, np.nan, *answer.logprobs], dtype=np.float32),
            turns=[Turn((0, 2), (2, 2 + len(answer.tokens)), "student", answer.stop, "", "")],
            outcome=Outcome.TERMINATED,
            success=True,
            reward=0.0,
        )
        for i, answer in enumerate(answers)
    ]


def learn(lm: LanguageModel, teacher: LanguageModel, learner: Learner, updates: int = 2) -> None:
    taught = LocalTeacher(teacher)
    for _ in range(updates):
        batch = episodes(lm)
        for trajectory, scores in zip(batch, taught.score(batch), strict=True):
            trajectory.scores = scores
        learner.update(batch, assign_credit(pad_scored(batch), CreditConfig()), CreditConfig(), taught, progress=0.0)


@pytest.fixture
def trained(make_lm) -> LanguageModel:
    lm = make_lm(0)
    add_adapters(lm.model, LORA, seed=3)
    learn(lm, make_lm(1), Learner(lm, LearnerConfig(lr=1e-2)))
    return lm


def test_new_adapters_change_nothing(make_lm):
    lm = make_lm(0)
    before = logits(lm.model)
    add_adapters(lm.model, LORA, seed=3)
    assert torch.equal(logits(lm.model), before)
    assert all(torch.equal(value, make_lm(0).model.state_dict()[n]) for n, value in merged_state(lm.model).items())


def test_adapters_start_alike_whatever_was_drawn_before(make_lm):
    first, second, other = make_lm(0), make_lm(0), make_lm(0)
    add_adapters(first.model, LORA, seed=3)
    state = torch.get_rng_state()
    torch.rand(7)
    add_adapters(second.model, LORA, seed=3)
    torch.set_rng_state(state)
    add_adapters(other.model, LORA, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = ([p for p in lm.model.parameters() if p.requires_grad] for lm in (first, second, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))


def test_adapters_alone_are_trained(trained, make_lm):
    base = make_lm(0).model.state_dict()
    for name, value in trained.model.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name
    learned = [p for p in trained.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) < 0.5 * sum(value.numel() for value in base.values())
    assert not torch.allclose(logits(trained.model), logits(make_lm(0).model), atol=1e-3)


def test_the_head_keeps_out_of_all_linear(trained):
    named = {n for n, _ in trained.model.named_parameters() if ".lora_B" in n}
    assert len(named) == 2 * 7 and not any("lm_head" in n or "embed" in n for n in named)


def test_engine_and_scorer_see_the_adapted_weights(trained):
    tokens = IDS[0].numpy()
    wanted = logits(trained.model)[0].log_softmax(-1)[:-1].gather(1, IDS[0, 1:, None])[:, 0].numpy()
    at = np.arange(1, len(tokens))
    assert score_tokens(trained, [tokens], [at])[0].lt == pytest.approx(wanted, abs=1e-5)
    engine = TransformersEngine(trained)
    assert engine.append([Request(0, tokens.tolist(), 0)], [len(at)])[0] == pytest.approx(wanted, abs=1e-5)


def test_what_is_saved_is_a_plain_model_and_adapters_for_peft(trained, make_lm, tmp_path):
    import peft

    trained.save(tmp_path / "student")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert type(plain) is type(trained.model)
    assert not any(".lora_" in name for name in plain.state_dict())
    assert torch.allclose(logits(plain), logits(trained.model), atol=1e-5)
    load_model(str(tmp_path / "student"))
    adapted = peft.PeftModel.from_pretrained(make_lm(0).model, tmp_path / "student" / ADAPTER)
    assert torch.equal(logits(adapted.eval()), logits(trained.model))


def test_saving_changes_nothing_and_tied_embeddings_stay_tied(make_lm, tmp_path):
    lm = make_lm(0)
    lm.model.config.tie_word_embeddings = True
    lm.model.tie_weights()
    add_adapters(lm.model, LORA, seed=3)
    before = copy.deepcopy(lm.model.state_dict())
    lm.save(tmp_path / "student")
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert torch.equal(logits(plain), logits(lm.model))


def test_a_restored_learner_goes_on_as_if_nothing_had_happened(make_lm, tmp_path):
    first, config = make_lm(0), LearnerConfig(lr=1e-2)
    add_adapters(first.model, LORA, seed=3)
    learner = Learner(first, config)
    learn(first, make_lm(1), learner)
    first.save(tmp_path / "student")
    second = make_lm(0)
    add_adapters(second.model, LORA, seed=99)
    load_adapters(second.model, tmp_path / "student" / ADAPTER)
    restored = Learner(second, config)
    restored.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert torch.equal(logits(first.model), logits(second.model))
    learn(first, make_lm(1), learner, 1)
    learn(second, make_lm(1), restored, 1)
    assert torch.equal(logits(first.model), logits(second.model))


def test_dropout_is_for_training_only(make_lm):
    lm = make_lm(0)
    add_adapters(lm.model, LORA.model_copy(update={"dropout": 0.5}), seed=3)
    learn(lm, make_lm(1), Learner(lm, LearnerConfig(lr=1e-2)))
    assert torch.equal(logits(lm.model), logits(lm.model))


def test_layers_can_be_named(make_lm):
    lm = make_lm(0)
    add_adapters(lm.model, LoraConfig(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj")), seed=0)
    assert {n.split(".")[-4] for n, p in lm.model.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"}


def test_names_of_no_layer_are_refused(make_lm):
    with pytest.raises(UserError, match="target_modules.*w_proj.*all-linear"):
        add_adapters(make_lm(0).model, LoraConfig(rank=2, alpha=4.0, target_modules=("w_proj",)), seed=0)


def test_a_tied_head_is_refused(make_lm):
    lm = make_lm(0)
    lm.model.config.tie_word_embeddings = True
    lm.model.tie_weights()
    with pytest.raises(UserError, match="output head is its embedding"):
        add_adapters(lm.model, LoraConfig(rank=2, alpha=4.0, target_modules=("lm_head",)), seed=0)


def test_adapters_that_are_not_there_or_do_not_fit_are_refused(trained, make_lm, tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_adapters(trained.model, tmp_path / "nowhere")
    trained.save(tmp_path / "student")
    smaller = make_lm(0)
    add_adapters(smaller.model, LoraConfig(rank=2, alpha=4.0), seed=0)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_adapters(smaller.model, tmp_path / "student" / ADAPTER)
    wider = make_lm(0)
    few = LoraConfig(rank=4, alpha=8.0, target_modules=("q_proj",))
    add_adapters(wider.model, few, seed=0)
    wider.save(tmp_path / "few")
    with pytest.raises(UserError, match="no adapter for"):
        load_adapters(trained.model, tmp_path / "few" / ADAPTER)


def test_without_peft_the_package_to_install_is_named(monkeypatch, make_lm):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "trpd-agents\[peft\]"'):
        require_peft()
    with pytest.raises(UserError, match="peft"):
        add_adapters(make_lm(0).model, LORA, seed=0)


def test_peft_is_not_imported_for_a_model_without_adapters(make_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    make_lm(0).save(tmp_path / "plain")
