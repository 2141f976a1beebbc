"""The probe, with transformers engines that hold other weights than the trainer's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from trpd_agents.distributed import World
from trpd_agents.errors import RunError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.weight_probe import WeightProbe, openings, share_arrived
from trpd_agents.textenv import EnvSpec

ENV = EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4})


def twin(lm: LanguageModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.ref)


@pytest.fixture
def lm(make_lm) -> LanguageModel:
    return twin(make_lm(0))


@pytest.fixture
def engine(lm) -> TransformersEngine:
    """An engine with a copy of the weights."""
    return TransformersEngine(twin(lm))


def played(engine: TransformersEngine, ends: frozenset[int]) -> list:
    collector = Collector(ENV, engine, engine.lm.tokenizer, Sampling(6, ends, seed=2), Limits(3, 1024))
    return collector.collect([Episode(seed, seed) for seed in range(6)])


@pytest.fixture
def probe(lm, engine, ends) -> WeightProbe:
    """Of an engine that has just sampled with the trainer's weights."""
    probe = WeightProbe(engine, lm, World())
    assert probe.start(openings(ENV, lm, [1, 2])) < 1e-5
    assert probe.sampled(played(engine, ends)) < 1e-5
    return probe


def test_a_push_that_arrives_passes(probe, lm, engine, move):
    move(lm, 0.01)
    engine.load_weights(lm.model.state_dict(), 1)
    assert probe.pushed() < 1e-5


def test_a_stale_engine_stops_the_run_with_the_gap_the_limit_and_causes(probe, lm, move):
    move(lm, 0.3)
    with pytest.raises(
        RunError, match=r"disagree by \d\.?\d* nats per token \(at most 0\.1 .* tied embeddings on a CPU"
    ):
        probe.pushed()


@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_a_missed_update_is_noticed_however_small(probe, lm, engine, move, size):
    """Far below the limit on the gap: what tells is that the engine did not move."""
    move(lm, size)
    with pytest.raises(
        RunError, match=r"did not arrive .* moved by -?0\.0\d times what the trainer's did \(1 expected"
    ):
        probe.pushed()


def test_half_an_update_is_noticed(probe, lm, engine, move):
    """The head keeps its old weights, as a packed copy of a tied head does."""
    head = {k: v.clone() for k, v in lm.model.state_dict().items() if k.startswith("lm_head")}
    move(lm, 1e-3)
    engine.load_weights({**lm.model.state_dict(), **head}, 1)
    with pytest.raises(RunError, match="did not arrive"):
        probe.pushed()


def test_lower_precision_alone_is_not_taken_for_a_missed_update(lm, ends, move):
    """Noise of bfloat16 is larger than this update's effect, and has no direction."""
    engine = TransformersEngine(twin(lm))
    engine.lm.model.to(torch.bfloat16)
    probe = WeightProbe(engine, lm, World(), max_gap=10.0)
    probe.start(openings(ENV, lm, [1]))
    probe.sampled(played(engine, ends))
    move(lm, 1e-6)
    engine.load_weights({k: v.to(torch.bfloat16) for k, v in lm.model.state_dict().items()}, 1)
    probe.pushed()


def test_an_update_of_nothing_passes(probe):
    assert probe.pushed() < 1e-5


def test_the_wrong_model_is_noticed_before_the_first_episode(lm, make_lm):
    probe = WeightProbe(TransformersEngine(make_lm(1)), lm, World())
    with pytest.raises(RunError, match="before the first episode"):
        probe.start(openings(ENV, lm, [1]))


def test_the_wrong_policy_is_noticed_in_what_it_sampled(lm, make_lm, ends):
    other = TransformersEngine(make_lm(1))
    with pytest.raises(RunError, match="in the episodes just played"):
        WeightProbe(other, lm, World()).sampled(played(other, ends))


def test_weights_that_are_not_numbers_are_no_agreement(probe, lm, engine):
    with torch.no_grad():
        engine.lm.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="disagree by nan"):
        probe.pushed()


def test_without_a_token_of_the_student_the_openings_are_compared(lm, engine, ends, move):
    probe = WeightProbe(engine, lm, World())
    probe.start(openings(ENV, lm, [1]))
    assert probe.sampled([]) == 0.0
    assert probe.pushed() < 1e-5
    move(lm, 0.3)
    with pytest.raises(RunError, match="disagree by"):
        probe.pushed()


def test_an_engine_on_the_trainers_own_weights_has_nothing_to_receive(lm, ends, move):
    engine = TransformersEngine(lm)
    probe = WeightProbe(engine, lm, World())
    probe.sampled(played(engine, ends))
    move(lm, 0.3)
    assert probe.shares_weights and probe.pushed() == 0.0


def test_the_share_that_arrived_is_least_squares_through_the_origin():
    rng = np.random.default_rng(0)
    moved = rng.normal(size=400)
    followed = 0.6 * moved + 0.1 * rng.normal(size=400)
    share, error = share_arrived(400, moved @ moved, moved @ followed, followed @ followed)
    wanted, residuals, *_ = np.linalg.lstsq(moved[:, None], followed, rcond=None)
    assert share == pytest.approx(wanted[0])
    assert error == pytest.approx(np.sqrt(residuals[0] / 399 / (moved @ moved)))
    assert share_arrived(400, 0.0, 0.0, 0.0) == (1.0, float("inf"))


def test_openings_are_what_the_environment_says_first(lm):
    first, second, again = openings(ENV, lm, [1, 2, 1])
    np.testing.assert_array_equal(first, again)
    text = lm.tokenizer.decode(first)
    assert "number" in text and len(first) <= 256
    assert openings(EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4}), lm, []) == []
