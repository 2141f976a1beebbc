"""The plain engine against plain forward passes, for models that the one key-value cache cannot hold: no cache, no
padding, one conversation at a time."""

from __future__ import annotations

import copy
import functools
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import LinearAttentionLayer

from trpd_agents.counter_rng import uniform
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Engine, Request, Sampling, TransformersEngine
from trpd_agents.rollout.local_engine import local_engine, plain_notices
from trpd_agents.rollout.plain_engine import PlainEngine
from trpd_agents.rollout.student_weights import plain_copy
from trpd_agents.trajectory import Stop

VOCABULARY = 120
ENDS = frozenset(range(3, 20))
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
}
REMEMBERING: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
    "granitemoehybrid": {
        **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16},
        **{**EXPERTS, "shared_intermediate_size": 32, "layer_types": ["mamba", "attention"]},
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 16},
    "qwen3_5_text": LINEAR,
    "qwen3_next": {**EXPERTS, **LINEAR, "shared_expert_intermediate_size": 32},
}
# The first has no cache, the second one of its own.
FORGETTING: dict[str, dict[str, Any]] = {"openai-gpt": {}, "rwkv": {"attention_hidden_size": 32}}
FAMILIES = REMEMBERING | FORGETTING | {"llama": {}, "gemma2": {"sliding_window": 8, "head_dim": 8}}


@functools.cache
def family_model(family: str, seed: int = 0) -> LanguageModel:
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    plain = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 512}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **{**plain, **heads, **ends, **FAMILIES[family]})
    # The usual 0.02 gives nearly uniform distributions, in which mistakes hide; 0.3 makes rounding show.
    config.initializer_range = 0.2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(model, None, family)


@torch.no_grad()
def plain_logprobs(lm: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """`[T, V]` nats: row t is the distribution that token t comes from; row 0 is NaN."""
    found = lm.model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
    return torch.cat([torch.full_like(found[:1], torch.nan), found[:-1]])


class Said:
    """A conversation: what it was fed and has answered, and the log-probabilities of scored tokens by position."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.logprobs: dict[int, float] = {}
        self.sampled: list[int] = []

    def add(self, tokens: list[int], logprobs: list[float]) -> None:
        """The last tokens of these have log-probabilities."""
        self.tokens += tokens
        self.logprobs |= dict(enumerate(logprobs, len(self.tokens) - len(logprobs)))


GROUP = np.random.default_rng(0).integers(20, VOCABULARY, 75).tolist()  # beyond the chunks of the recurrent layers


def feeds_of(conversation: int) -> list[list[int]]:
    """What it is given before each of its turns; every third begins like the others of its group."""
    rng = np.random.default_rng(conversation)
    drawn = [rng.integers(20, VOCABULARY, rng.integers(1, 30)).tolist() for _ in range(1 + conversation % 4)]
    begins = {0: GROUP, 1: [*GROUP[:40], *drawn[0]], 2: drawn[0]}
    return [begins[conversation % 3], *drawn[1:]]


def converse(engine: Engine, names: list[int], sampling: Sampling, *, given: bool = False) -> dict[int, Said]:
    """Conversations that join one after the other, pause, and leave; with `given` half of the turns are not sampled."""
    feeds = {c: feeds_of(c) for c in names}
    said = {c: Said() for c in names}
    turn = dict.fromkeys(names, 0)
    for time in range(100):
        live = [c for c in names if turn[c] < len(feeds[c]) and c // 3 <= time and (time + c) % 5]
        requests = [Request(c, feeds[c][turn[c]], key=c) for c in live]
        spoken = [not given or (turn[c] + c) % 2 == 0 for c in live]
        mute = [r for r, speaks in zip(requests, spoken, strict=True) if not speaks]
        counts = [min(3, len(r.tokens) - 1) for r in mute]
        for r, count, values in zip(mute, counts, engine.append(mute, counts), strict=True):
            assert values.dtype == np.float32 and values.shape == (count,)
            said[r.conversation].add(list(r.tokens), values.tolist())
        speakers = [r for r, speaks in zip(requests, spoken, strict=True) if speaks]
        for r, answer in zip(speakers, engine.generate(speakers, sampling), strict=True):
            log = said[r.conversation]
            log.add(list(r.tokens), [])
            log.sampled += range(len(log.tokens), len(log.tokens) + len(answer.tokens))
            log.add(answer.tokens, answer.logprobs)
            assert (answer.stop is Stop.END) == (answer.tokens[-1] in sampling.end_ids)
            assert not set(answer.tokens[:-1]) & sampling.end_ids and len(answer.tokens) <= sampling.max_new_tokens
        for c in live:
            turn[c] += 1
        engine.release([c for c in live if turn[c] == len(feeds[c])])
        if all(turn[c] == len(feeds[c]) for c in names):
            return said
    raise AssertionError("it should be over by now")


SAMPLING = Sampling(max_new_tokens=6, end_ids=ENDS, seed=1)
GREEDY = Sampling(max_new_tokens=6, end_ids=ENDS, temperature=0.0)
NAMES = list(range(11))


def holds(lm: LanguageModel, said: dict[int, Said], sampling: Sampling) -> None:
    """Log-probabilities, and the choice of every sampled token, are those of plain forward passes."""
    for key, log in said.items():
        logp = plain_logprobs(lm, log.tokens)
        wanted = [float(logp[t, log.tokens[t]]) for t in log.logprobs]
        assert list(log.logprobs.values()) == pytest.approx(wanted, abs=1e-4)
        for t in log.sampled:
            if sampling.temperature == 0:
                assert log.tokens[t] == int(logp[t].argmax())
            else:
                running = logp[t].double().exp().cumsum(-1)
                draw = float(uniform(sampling.seed, key, t)) * running[-1]
                after, before = running[log.tokens[t]], running[log.tokens[t]] - logp[t, log.tokens[t]].double().exp()
                assert before - 1e-5 <= draw <= after + 1e-5


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_conversations_are_those_of_a_plain_loop(family, sampling):
    lm = family_model(family)
    assert lm.remembers == (family not in FORGETTING)
    said = converse(PlainEngine(lm), NAMES, sampling)
    assert len({t for log in said.values() for t in log.sampled}) > 20
    holds(lm, said, sampling)


@pytest.mark.parametrize("family", [*REMEMBERING, "rwkv"])
def test_given_tokens_are_scored_like_any_others(family):
    lm = family_model(family)
    holds(lm, converse(PlainEngine(lm), NAMES, SAMPLING, given=True), SAMPLING)


@pytest.mark.parametrize("family", [*REMEMBERING, "openai-gpt"])
def test_tokens_do_not_depend_on_the_batch(family):
    lm = family_model(family)
    together = converse(PlainEngine(lm), NAMES, SAMPLING, given=True)
    for c in (0, 3, 5, 7):
        assert converse(PlainEngine(lm), [c], SAMPLING, given=True)[c].tokens == together[c].tokens


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_its_tokens_are_those_of_the_transformers_engine(make_lm, temperature):
    sampling = Sampling(max_new_tokens=6, end_ids=ENDS, temperature=temperature, seed=4)
    one, other = (converse(kind(make_lm()), NAMES, sampling, given=True) for kind in (PlainEngine, TransformersEngine))
    assert {c: log.tokens for c, log in one.items()} == {c: log.tokens for c, log in other.items()}
    for c, log in one.items():
        assert list(log.logprobs.values()) == pytest.approx(list(other[c].logprobs.values()), abs=1e-4)


# What is encoded, and what is forgotten


def test_each_token_is_given_once_and_common_beginnings_too():
    engine = PlainEngine(family_model("lfm2"))
    said = converse(engine, [2, 5, 8], SAMPLING, given=True)  # nothing in common
    assert engine.encoded == sum(len(log.tokens) - 1 for log in said.values())
    engine = PlainEngine(family_model("lfm2"))
    prompts = [[*GROUP[:30], 50], [*GROUP[:30], 50], [*GROUP[:30], 60, 70]]
    answers = engine.generate([Request(i, prompt, i) for i, prompt in enumerate(prompts)], SAMPLING)
    assert engine.encoded == 30 + 1 + 2 + sum(len(answer.tokens) - 1 for answer in answers)
    before = engine.encoded
    (late,) = engine.generate([Request(9, [*GROUP[:30], 80], 9)], SAMPLING)
    assert engine.encoded - before == 1 + len(late.tokens) - 1


def test_a_beginning_is_not_taken_over_from_other_weights():
    lm, other = copy.deepcopy(family_model("qwen3_5_text")), family_model("qwen3_5_text", 1)
    engine = PlainEngine(lm)
    sampling = Sampling(max_new_tokens=3, end_ids=frozenset())
    engine.generate([Request(i, [*GROUP, 50 + i], i) for i in range(2)], sampling)
    engine.load_weights(other.model.state_dict(), 1)
    assert engine.version == 1 and lm.model.state_dict().keys() == other.model.state_dict().keys()
    prompts = [[*GROUP, 60 + i] for i in range(2)]
    for prompt, answer in zip(
        prompts, engine.generate([Request(5 + i, p, 5 + i) for i, p in enumerate(prompts)], sampling), strict=True
    ):
        logp = plain_logprobs(other, prompt + answer.tokens)[len(prompt) :]
        wanted = logp.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
        assert answer.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)


def test_release_forgets():
    engine = PlainEngine(family_model("lfm2"))
    requests = [Request(i, [*GROUP, 50 + i], i) for i in range(3)]
    first = engine.generate(requests, SAMPLING)
    engine.release([0, 1, 2, 99])
    assert not engine._memories and not engine._unfed and engine._beginning is None
    assert [a.tokens for a in engine.generate(requests, SAMPLING)] == [a.tokens for a in first]


def test_an_empty_conversation_and_scores_that_nothing_predicts_are_refused():
    engine = PlainEngine(family_model("lfm2"))
    with pytest.raises(ValueError, match="conversation 3 is empty"):
        engine.generate([Request(3, [], 3)], SAMPLING)
    with pytest.raises(ValueError, match="counts: found 3 for conversation 1, wanted at most its 3 new tokens, each"):
        engine.append([Request(1, [5, 6, 7], 1)], [3])
    assert engine.generate([], SAMPLING) == [] and engine.append([], []) == []
    assert engine.append([Request(2, [5], 2)], [0])[0].shape == (0,)
    holds(engine.lm, {2: said_after(engine, 2, [5])}, SAMPLING)


def said_after(engine: PlainEngine, conversation: int, tokens: list[int]) -> Said:
    """An answer without anything new before it."""
    said = Said()
    said.add(tokens, [])
    (answer,) = engine.generate([Request(conversation, [], conversation)], SAMPLING)
    said.sampled += range(len(tokens), len(tokens) + len(answer.tokens))
    said.add(answer.tokens, answer.logprobs)
    return said


# Which models it is for


def test_a_model_that_forgets_is_found_out(monkeypatch):
    def lost(self: Any, states: torch.Tensor, state_idx: int = 0, **how: Any) -> torch.Tensor:
        return update(self, torch.zeros_like(states), state_idx, **how)

    update = LinearAttentionLayer.update_recurrent_state
    monkeypatch.setattr(LinearAttentionLayer, "update_recurrent_state", lost)
    lm = LanguageModel(family_model("qwen3_5_text").model, None, "forgets")
    assert not lm.remembers
    holds(lm, converse(PlainEngine(lm), [0, 1, 2, 3], SAMPLING), SAMPLING)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fastest_engine_that_is_right_is_taken(family):
    lm = family_model(family)
    fast = family in ("llama", "gemma2")
    assert type(local_engine(lm)) is (TransformersEngine if fast else PlainEngine)
    notices = plain_notices([lm, lm])
    assert len(notices) == (not fast)
    if not fast:
        assert notices[0].startswith(f"model {family!r} ({type(lm.model).__name__}) has recurrent layers or attention")
        assert ("encoded again for every token" in notices[0]) == (family in FORGETTING)
        with pytest.raises(UserError, match=r"cuda_graphs is true, but model .*; wanted rollout.engine.cuda_graphs=fa"):
            local_engine(lm, cast("Any", object()))


@pytest.mark.parametrize("family", ["qwen3_5_text", "lfm2", "bloom"])
def test_half_precision(family):
    lm = family_model(family)
    copied = plain_copy(lm, torch.bfloat16)
    assert copied.remembers
    said = converse(PlainEngine(copied), NAMES, SAMPLING)
    for log in said.values():
        logp = plain_logprobs(lm, log.tokens)
        off = [abs(value - float(logp[t, log.tokens[t]])) for t, value in log.logprobs.items()]
        assert np.median(off) < 0.3
