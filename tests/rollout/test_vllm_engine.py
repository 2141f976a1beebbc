"""The vLLM engine against the transformers engine and plain forward passes, on models that vLLM's CPU build can serve.

Run where vLLM is installed:  python -m pytest -m slow -p no:xdist -o addopts= tests/rollout/test_vllm_engine.py
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from trpd_agents.config import LearnerConfig, LoraConfig, parse_config
from trpd_agents.config.engine import VLLMEngineConfig
from trpd_agents.credit import assign_credit
from trpd_agents.credit.presets import PRESETS
from trpd_agents.distributed import World
from trpd_agents.errors import RunError
from trpd_agents.learner import Learner
from trpd_agents.lora import add_adapters
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import (
    Collector,
    Episode,
    Limits,
    Request,
    Sampling,
    TransformersEngine,
    vllm_process,
    vllm_worker,
)
from trpd_agents.rollout.student_weights import push_weights
from trpd_agents.rollout.vllm_engine import VLLMEngine
from trpd_agents.rollout.weight_probe import WeightProbe, openings
from trpd_agents.scoring import score_tokens
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv import EnvSpec
from trpd_agents.training import train
from trpd_agents.trajectory import Stop, pad_scored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

MAX_TOKENS = 512
SETTINGS = VLLMEngineConfig(max_parallel=16)
MakeServed = Callable[..., LanguageModel]


@pytest.fixture(scope="module")
def make_served(tokenizer) -> MakeServed:
    """`make_served(seed, tied)`: an untrained model whose heads are of a size that vLLM has a CPU kernel for."""

    def build(seed: int, tied: bool) -> LanguageModel:
        config = LlamaConfig(
            vocab_size=(len(tokenizer) // 64 + 1) * 64,  # wider than the tokenizer, as padded vocabularies are
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=MAX_TOKENS,
            initializer_range=0.15,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, f"served-{seed}")

    return build


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}], ids=["whole", "adapters"])
def test_a_run_of_three_steps_and_a_fourth(make_served, tmp_path, lora):
    """Start to end: evaluations, rollouts, corrected updates in two mini-batches, pushes that the probe lets pass.

    The one that goes on starts its engine with what was trained, adapters among it.
    """
    for seed, who in enumerate(("student", "teacher")):
        make_served(seed, True).save(tmp_path / who)
    recipe: dict[str, Any] = {
        "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 3}},
        "student": {"model": str(tmp_path / "student")},
        "teacher": {"model": str(tmp_path / "teacher")},
        "rollout": {"max_new_tokens": 4, "max_tokens": MAX_TOKENS, "engine": {"kind": "vllm", "max_parallel": 16}},
        "credit": {"preset": "opd"},
        "learner": {"lr": 1e-2, "device": "cpu", "correction": "truncate", "minibatches": 2, "lora": lora},
        "training": {"steps": 3, "episodes_per_step": 8},
        "evaluation": {"episodes": 4, "every": 2},
    }
    summary = train(parse_config(recipe), tmp_path / "run", quiet=True)
    assert summary["before"]["episodes"] == summary["after"]["episodes"] == 4
    recipe["training"]["steps"] = 4
    train(parse_config(recipe), resume=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["action_tokens"] > 0 and line["grad_norm"] > 0
        assert line["sampler_gap"] < 1e-4 and line["correction_gap"] < 1e-4
        assert abs(line["correction_rho"] - 1) < 1e-4 and line["correction_share"] == 0


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def served(request, make_served) -> Iterator[tuple[LanguageModel, VLLMEngine]]:
    lm = make_served(0, request.param)
    engine = VLLMEngine(lm, SETTINGS, MAX_TOKENS)
    yield lm, engine
    engine.close()


@pytest.fixture
def engine(served) -> Iterator[VLLMEngine]:
    """The engine with the weights it began with, whatever the test does to it."""
    lm, engine = served
    yield engine
    engine.release(list(engine._said))
    engine.load_weights(lm.model.state_dict(), 0)


@pytest.fixture
def lm(served) -> LanguageModel:
    """A copy, to be trained."""
    return LanguageModel(copy.deepcopy(served[0].model), served[0].tokenizer, served[0].ref)


def converse(engine: Any, sampling: Sampling, turns: int = 3) -> dict[int, tuple[list[int], list[float], list[Stop]]]:
    """Three conversations of several turns, of different lengths, in lock step; what was said and sampled in each."""
    rng = np.random.default_rng(0)
    said: dict[int, tuple[list[int], list[float], list[Stop]]] = {c: ([], [], []) for c in range(3)}
    for _ in range(turns):
        fed = {c: rng.integers(3, 262, rng.integers(1, 14)).tolist() for c in said}
        answers = engine.generate([Request(c, fed[c], key=c) for c in said], sampling)
        for c, answer in zip(said, answers, strict=True):
            tokens, logprobs, stops = said[c]
            tokens += fed[c] + answer.tokens
            logprobs += [float("nan")] * len(fed[c]) + answer.logprobs
            stops.append(answer.stop)
    engine.release(list(said))
    return said


def test_greedy_conversations_are_those_of_the_transformers_engine(lm, engine, ends):
    greedy = Sampling(max_new_tokens=8, end_ids=ends, temperature=0.0)
    wanted = converse(TransformersEngine(lm), greedy)
    for c, (tokens, logprobs, stops) in converse(engine, greedy).items():
        assert tokens == wanted[c][0] and stops == wanted[c][2]
        np.testing.assert_allclose(logprobs, wanted[c][1], atol=1e-4)


def test_sampled_log_probabilities_are_the_models_own_at_any_temperature(lm, engine, ends):
    """Also the end of a turn: every token is an end token to one of these, none to another."""
    every = frozenset(range(lm.vocab_size))
    for temperature, end_ids, stop in ((1.0, every, Stop.END), (0.5, ends, None), (1.0, frozenset(), Stop.LENGTH)):
        sampling = Sampling(max_new_tokens=5, end_ids=end_ids, temperature=temperature, seed=3)
        for tokens, logprobs, stops in converse(engine, sampling).values():
            at = np.flatnonzero(np.isfinite(logprobs))
            assert stop is None or set(stops) == {stop}
            assert end_ids != every or len(at) == len(stops)  # the end token itself is in the answer
            (scores,) = score_tokens(lm, [np.array(tokens)], [at])
            np.testing.assert_allclose(np.array(logprobs)[at], scores.lt, atol=1e-4)


def test_draws_repeat_and_do_not_depend_on_the_batch(engine, ends):
    sampling = Sampling(max_new_tokens=6, end_ids=ends, seed=7)
    first, second = (converse(engine, sampling) for _ in range(2))
    assert [tokens for tokens, _, _ in first.values()] == [tokens for tokens, _, _ in second.values()]
    prompt = [5, 6, 7, 8, 9]
    several = engine.generate([Request(c, prompt, key=c) for c in range(10, 16)], sampling)
    engine.release(range(10, 16))
    alone = engine.generate([Request(20, prompt, key=13)], sampling)
    assert alone[0].tokens == several[3].tokens
    assert len({tuple(answer.tokens) for answer in several}) > 1


def test_more_prompts_than_fit_into_one_pass(engine, ends):
    """vLLM cuts prompts in two then, which on a CPU it cannot do with a draw that has a seed."""
    sampling = Sampling(max_new_tokens=4, end_ids=ends, seed=7)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 262, MAX_TOKENS - 5).tolist() for _ in range(SETTINGS.max_parallel)]
    several = engine.generate([Request(c, prompt, key=c) for c, prompt in enumerate(prompts)], sampling)
    alone = engine.generate([Request(20, prompts[9], key=9)], sampling)
    assert alone[0].tokens == several[9].tokens


def test_an_error_of_vllm_says_how_to_go_on(engine, monkeypatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("EngineCore died\nsomewhere")

    monkeypatch.setattr(engine._llm, "generate", broken)
    with pytest.raises(RunError, match=r"vLLM failed \(RuntimeError: EngineCore died\).*--resume"):
        engine.generate([Request(0, [5, 6], key=0)], Sampling(1, frozenset()))


def test_sampling_is_from_the_whole_distribution(lm, engine):
    prompt, draws = [5, 6, 7, 8], 1500
    answers = engine.generate([Request(c, prompt, key=c) for c in range(draws)], Sampling(1, frozenset(), seed=1))
    counts = np.bincount([a.tokens[0] for a in answers], minlength=lm.vocab_size)
    with torch.no_grad():
        p = lm.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).double().numpy()
    common = p * draws >= 5
    found = np.append(counts[common], counts[~common].sum())
    wanted = np.append(p[common], p[~common].sum()) * draws
    assert chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-3
    assert counts[~common].sum() > 0  # the tail is sampled too


def test_scores_of_given_tokens(lm, engine):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(3, 262, n) for n in (2, 40, MAX_TOKENS)]  # the longest fills the context
    positions = [np.array([1]), np.array([3, 17, 39]), np.array([1, 400, MAX_TOKENS - 1])]
    for found, wanted in zip(
        engine.logprobs(sequences, positions, top_k=3), score_tokens(lm, sequences, positions, top_k=3), strict=True
    ):
        np.testing.assert_allclose(found.lt, wanted.lt, atol=1e-4)
        np.testing.assert_allclose(found.top_lt, wanted.top_lt, atol=1e-4)
        assert found.positions.tolist() == wanted.positions.tolist()
        gaps = np.diff(wanted.top_lt, axis=1) < -1e-3  # where the order is beyond rounding
        assert (found.top_ids == wanted.top_ids)[:, :-1][gaps].all()
    (nothing,) = engine.logprobs(sequences[:1], [np.zeros(0, dtype=np.int64)])
    assert nothing.lt.shape == (0,)


def test_reading_along_and_going_on(lm, engine, ends):
    """What others said counts as said: the next action continues it."""
    greedy = Sampling(max_new_tokens=6, end_ids=ends, temperature=0.0)
    found: list[tuple[list[float], list[int]]] = []
    for player in (engine, TransformersEngine(lm)):
        (lt,) = player.append([Request(1, [9, 8, 7, 6, 5], key=1)], [3])
        (none,) = player.append([Request(1, [11, 12], key=1)], [0])
        assert none.shape == (0,)
        found.append((lt.tolist(), player.generate([Request(1, [4], key=1)], greedy)[0].tokens))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    assert found[0][1] == found[1][1]
    with pytest.raises(ValueError, match="counts: found 2 for conversation 5, wanted at most its 1 new tokens"):
        engine.append([Request(5, [4], key=1)], [2])


ENV = EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4})


def play(lm: LanguageModel, engine: Any, ends: frozenset[int]) -> list[Any]:
    collector = Collector(ENV, engine, lm.tokenizer, Sampling(6, ends, seed=5), Limits(3, MAX_TOKENS))
    return collector.collect([Episode(seed, seed) for seed in range(6)])


def test_episodes_of_a_bundled_environment(lm, engine, ends):
    played = play(lm, engine, ends)
    assert max(len(t.turns) for t in played) >= 2
    for trajectory in played:
        at = np.flatnonzero(trajectory.authored("student"))
        (scores,) = score_tokens(lm, [trajectory.tokens], [at])
        np.testing.assert_allclose(trajectory.logprobs[at], scores.lt, atol=1e-4)
    assert engine._said == {}  # nothing is kept of episodes that have ended


def update(lm: LanguageModel, trajectories: list[Any], teacher: LocalTeacher) -> Learner:
    """A real optimiser step."""
    for trajectory, scores in zip(trajectories, teacher.score(trajectories), strict=True):
        trajectory.scores = scores
    learner = Learner(lm, LearnerConfig(lr=1e-2, device="cpu"))
    method = PRESETS["opd"].config
    learner.update(trajectories, assign_credit(pad_scored(trajectories), method), method, teacher, progress=0.0)
    return learner


@pytest.fixture
def probed(lm, engine, ends, make_served) -> tuple[LanguageModel, WeightProbe]:
    """A model after an update, and a probe of the engine that has not been given the new weights yet."""
    probe = WeightProbe(engine, lm, World(), SETTINGS.max_gap)
    assert 0 <= probe.start(openings(ENV, lm, [1, 2])) < 1e-4
    played = play(lm, engine, ends)
    assert probe.sampled(played) < 1e-4
    update(lm, played, LocalTeacher(make_served(1, False)))
    return lm, probe


def test_weights_arrive_after_an_update(probed, engine, ends):
    lm, probe = probed
    engine.generate(
        [Request(1, list(range(3, 200)), key=1)], Sampling(1, ends)
    )  # in the prefix cache, with old weights
    engine.release([1])
    engine.load_weights(lm.model.state_dict(), 1)
    assert engine.version == 1 and probe.pushed() < 1e-4
    for trajectory in play(lm, engine, ends):
        at = np.flatnonzero(trajectory.authored("student"))
        np.testing.assert_allclose(
            trajectory.logprobs[at], score_tokens(lm, [trajectory.tokens], [at])[0].lt, atol=1e-4
        )
    (answer,) = engine.generate([Request(1, list(range(3, 200)), key=1)], Sampling(1, ends))
    (scores,) = score_tokens(lm, [np.array([*range(3, 200), answer.tokens[0]])], [np.array([197])])
    assert answer.logprobs[0] == pytest.approx(float(scores.lt[0]), abs=1e-4)


def test_adapters_arrive_merged(lm, engine, ends, make_served):
    """The trainer computes with adapters, vLLM with plain weights; one is the other after every push."""
    add_adapters(lm.model, LoraConfig(rank=4, alpha=8.0), seed=3)
    probe = WeightProbe(engine, lm, World(), SETTINGS.max_gap)
    assert probe.start(openings(ENV, lm, [1, 2])) < 1e-4
    for version in (1, 2):
        played = play(lm, engine, ends)
        assert probe.sampled(played) < 1e-4
        before = score_tokens(lm, [played[0].tokens], [played[0].action_positions()])[0].lt
        update(lm, played, LocalTeacher(make_served(1, False)))
        after = score_tokens(lm, [played[0].tokens], [played[0].action_positions()])[0].lt
        assert np.abs(after - before).max() > 1e-2
        with pytest.raises(RunError, match="disagree by|did not arrive"):
            probe.pushed()
        push_weights(engine, lm, version)
        assert probe.pushed() < 1e-4 and engine.version == version
        (found,) = engine.logprobs([played[0].tokens], [played[0].action_positions()])
        np.testing.assert_allclose(found.lt, after, atol=1e-4)


def test_an_engine_that_was_not_given_the_update_stops_the_run(probed):
    with pytest.raises(RunError, match="the sampler and the trained weights disagree by|did not arrive"):
        probed[1].pushed()


def test_a_head_that_keeps_its_old_packed_weights_is_noticed(probed, engine, monkeypatch):
    """What vLLM's own reload leaves behind on a CPU: tied embeddings named once, as checkpoints name them."""
    lm, probe = probed
    if not lm.model.config.tie_word_embeddings:
        pytest.skip("a head of its own gets weights of its own")
    state = {name: value for name, value in lm.model.state_dict().items() if name != "lm_head.weight"}
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker, "prepare_heads", lambda model: None)
        vllm_process.load_into(engine._llm, state)
    engine._llm.reset_prefix_cache()
    with pytest.raises(RunError, match="disagree by|did not arrive"):
        probe.pushed()
    vllm_process.load_into(engine._llm, state)
    engine._llm.reset_prefix_cache()
    assert probe.pushed() < 1e-4


def test_a_state_that_is_not_this_models_is_refused(engine, lm):
    state = dict(lm.model.state_dict())
    del state["model.layers.0.mlp.down_proj.weight"]
    state["model.layers.0.mlp.down_proj.lora_A.weight"] = torch.zeros(1)
    with pytest.raises(RunError, match=r"missing model.layers.0.mlp.down_proj.weight; .*lora_A"):
        engine.load_weights(state, 1)
