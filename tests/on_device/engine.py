"""Generation, scoring and the engine's cache on the pretended device, against the same on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, moved
from pretend_graph import PretendGraphs
from transformers import AutoConfig, AutoModelForCausalLM

from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Request, Sampling, TransformersEngine
from trpd_agents.rollout.model_engine import ModelEngine
from trpd_agents.rollout.plain_engine import PlainEngine
from trpd_agents.scoring import score_tokens


def converse(engine: ModelEngine, sampling: Sampling) -> list[object]:
    rng = np.random.default_rng(5)
    opening = rng.integers(3, 262, 20).tolist()
    said: list[object] = []
    for turn in range(4):
        live = [c for c in range(6) if (c + turn) % 3 or turn in (0, 3)]
        feeds = {
            c: (opening if turn == 0 else []) + rng.integers(3, 262, int(rng.integers(2, 40))).tolist() for c in live
        }
        feeds[live[-1]] = feeds[live[0]]  # at the first turn: a twin
        said += engine.generate([Request(c, feeds[c], key=c) for c in live], sampling)
        if turn == 2:
            said += [a.tolist() for a in engine.append([Request(c, [7, 8, 9], key=c) for c in live[:2]], [2, 0])]
        engine.release([c for c in live if c % 5 == turn and turn])
    return said


def same(found: list[object], wanted: list[object]) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        if isinstance(w, list):
            np.testing.assert_allclose(f, w, atol=1e-5)
        else:
            assert (f.tokens, f.stop) == (w.tokens, w.stop)
            np.testing.assert_allclose(f.logprobs, w.logprobs, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_conversations(make_lm, ends, temperature):
    sampling = Sampling(max_new_tokens=7, end_ids=ends, temperature=temperature, seed=3)
    wanted = converse(TransformersEngine(make_lm()), sampling)
    same(converse(TransformersEngine(moved(make_lm())), sampling), wanted)


def test_scores(make_lm):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 300, 40)
    sequences = [np.concatenate([start, rng.integers(0, 300, n)]) for n in (3, 30, 11)] + [rng.integers(0, 300, 9)]
    positions = [np.arange(1, len(s), 2) for s in sequences]
    settings = dict(top_k=5, entropy=True, keep_hidden=True, token_budget=100)
    here = score_tokens(make_lm(), sequences, positions, **settings)
    lm = moved(make_lm())
    assert lm.packs
    there = score_tokens(lm, sequences, positions, **settings)
    for h, t in zip(here, there, strict=True):
        for name in ("lt", "top_lt", "top_ids", "entropy"):
            np.testing.assert_allclose(getattr(t, name), getattr(h, name), atol=1e-5)
        assert t.hidden.device == DEVICE
        torch.testing.assert_close(t.hidden.cpu(), h.hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_captured_decoding(make_lm, ends, temperature):
    sampling = Sampling(max_new_tokens=7, end_ids=ends, temperature=temperature, seed=3)
    wanted = converse(TransformersEngine(make_lm()), sampling)
    graphs = PretendGraphs()
    same(converse(TransformersEngine(moved(make_lm()), graphs), sampling), wanted)
    assert len(graphs.results) > 1


RECURRENT = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 16},
}


@pytest.mark.parametrize("family", RECURRENT)
def test_conversations_with_recurrent_layers(family, ends, monkeypatch):
    # A tensor in Python that was made in inference mode has no views outside of it; a device's own has.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    config = AutoConfig.for_model(family, vocab_size=270, intermediate_size=64, **heads, **RECURRENT[family])
    config.initializer_range = 0.2

    def lm() -> LanguageModel:
        torch.manual_seed(0)
        return LanguageModel(AutoModelForCausalLM.from_config(config).eval(), None, family)

    sampling = Sampling(max_new_tokens=7, end_ids=ends, seed=3)
    there = moved(lm())
    assert there.remembers and not there.caches
    same(converse(PlainEngine(there), sampling), converse(PlainEngine(lm()), sampling))
