"""What engines with weights of their own are pushed: plain, whole, and equal to what is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from trpd_agents.config import LoraConfig
from trpd_agents.distributed import World
from trpd_agents.errors import RunError
from trpd_agents.lora import add_adapters, merged_state, plain_state, strip_adapters
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import TransformersEngine
from trpd_agents.rollout.student_weights import plain_copy, push_weights
from trpd_agents.rollout.weight_probe import WeightProbe
from trpd_agents.rollout.whole_conversations import WholeConversations, require_names
from trpd_agents.scoring import score_tokens
from trpd_agents.trajectory import Scores

TEXT, AT = [np.arange(3, 90)], [np.arange(1, 87)]
LORA = LoraConfig(rank=4, alpha=8.0)


class Elsewhere(WholeConversations):
    """Like a vLLM engine: a plain model that nobody else sees, and takes all of its weights or none."""

    def __init__(self, lm: LanguageModel):
        super().__init__()
        self._model = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.ref)

    def load_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        require_names(state, frozenset(self._model.model.state_dict()))
        self._model.model.load_state_dict(dict(state))
        self.version = version

    def logprobs(
        self, sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], top_k: int = 0
    ) -> list[Scores]:
        return score_tokens(self._model, sequences, positions, top_k=top_k)


@pytest.fixture
def lm(make_lm) -> LanguageModel:
    """With adapters that have not learned anything yet."""
    lm = make_lm(0)
    add_adapters(lm.model, LORA, seed=3)
    return lm


def score(lm: LanguageModel) -> np.ndarray:
    return score_tokens(lm, TEXT, AT)[0].lt


def test_what_was_learned_by_adapters_arrives_where_there_are_none(lm, make_lm, move):
    engine = Elsewhere(make_lm(0))
    probe = WeightProbe(engine, lm, World())
    assert probe.start(TEXT) < 1e-5
    before = score(lm)
    move(lm, 0.1)
    assert np.abs(score(lm) - before).mean() > 0.1
    with pytest.raises(RunError, match="disagree by"):
        probe.pushed()
    push_weights(engine, lm, 1)
    assert probe.pushed() < 1e-5 and engine.version == 1


def test_a_push_changes_nothing_in_the_trained_model(lm, make_lm, move):
    move(lm, 0.1)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in lm.model.state_dict().items()}
    push_weights(Elsewhere(make_lm(0)), lm, 1)
    after = lm.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) and value.data_ptr() == places[name] for name, value in after.items())


def test_adapters_themselves_are_refused_by_their_names(lm, make_lm):
    with pytest.raises(RunError, match=r"missing model\..*; unknown to it model\..*(base_layer|lora_)"):
        Elsewhere(make_lm(0)).load_weights(lm.model.state_dict(), 1)


def test_without_adapters_the_weights_are_the_trained_tensors(make_lm):
    model = make_lm(0).model
    state = plain_state(model)
    assert state.keys() == model.state_dict().keys()
    assert all(state[name].data_ptr() == value.data_ptr() for name, value in model.state_dict().items())


def test_an_engine_that_shares_the_adapted_model_is_given_nothing(lm, move):
    engine = TransformersEngine(lm)
    move(lm, 0.1)
    push_weights(engine, lm, 5)
    assert engine.version == 5 and engine.lm is lm


def test_adapters_are_merged_in_float32_and_rounded_once(lm, move):
    """Also on their way into a copy in bfloat16, where the sum of two roundings would be another weight."""
    move(lm, 0.1)
    wanted = {
        name: value.to(torch.bfloat16)
        for name, value in merged_state(lm.model).items()
        if name.endswith("q_proj.weight")
    }
    layers = {name: module for name, module in lm.model.named_modules() if name.endswith("q_proj")}
    found = merged_state(lm.model)
    for name, module in layers.items():
        delta = module.get_delta_weight("default").double()
        exact = (module.base_layer.weight.double() + delta).float()
        torch.testing.assert_close(found[f"{name}.weight"], exact, atol=1e-6, rtol=0)
    push = plain_copy(lm, torch.bfloat16).model.state_dict()
    assert wanted and all(torch.equal(push[name], value) for name, value in wanted.items())


def test_a_model_without_its_adapters_is_the_plain_one(lm, make_lm, move):
    move(lm, 0.1)
    strip_adapters(lm.model)
    plain = make_lm(0).model.state_dict()
    assert lm.model.state_dict().keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in lm.model.state_dict().items())
    add_adapters(lm.model, LORA, seed=4)  # and can be given others
    assert np.array_equal(score(lm), score(make_lm(0)))
