"""Sequences along one row against each by itself; gradients and prefixes in common included."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from trpd_agents import packing
from trpd_agents.batching import packed_batches
from trpd_agents.models import LanguageModel
from trpd_agents.packing import ATTENTION, SHARED_AT_LEAST, pack, packed_attention
from trpd_agents.scoring import score_tokens

rng = np.random.default_rng(0)
BEGINNING = rng.integers(3, 300, 40)


def tokens(n: int) -> np.ndarray:
    return rng.integers(3, 300, n)


APART = [tokens(n) for n in (30, 7, 55, 1, 41, 30)]
TOGETHER = [
    *(np.concatenate([BEGINNING, tokens(n)]) for n in (20, 1, 9)),
    np.concatenate([BEGINNING[:25], tokens(30)]),  # a branch of a branch
    BEGINNING.copy(),  # the beginning of another
    BEGINNING.copy(),
    np.concatenate([BEGINNING[: SHARED_AT_LEAST - 1], tokens(10)]),
    tokens(12),
]


def states(lm: LanguageModel, sequences: list[np.ndarray]) -> list[torch.Tensor]:
    hidden, rows = lm.encode(sequences)
    return [hidden[torch.from_numpy(row)] for row in rows]


def alone(lm: LanguageModel, sequences: list[np.ndarray]) -> list[torch.Tensor]:
    return [lm.hidden(torch.from_numpy(s)[None])[0] for s in sequences]


def padded(lm: LanguageModel) -> LanguageModel:
    """The same model, told that its sequences cannot share a row."""
    other = dataclasses.replace(lm)
    other.__dict__["packs"] = False
    return other


@pytest.mark.parametrize("sequences", [APART, TOGETHER, APART[:1]], ids=["apart", "together", "one"])
def test_each_sequence_gets_what_it_would_get_alone(make_lm, sequences):
    lm = make_lm(0)
    assert lm.packs and not padded(lm).packs
    with torch.no_grad():
        wanted = alone(lm, sequences)
        for found in (states(lm, sequences), states(padded(lm), sequences)):
            for a, b in zip(found, wanted, strict=True):
                assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("sequences", [APART, TOGETHER], ids=["apart", "together"])
def test_gradients_are_those_of_the_sequences_alone(make_lm, sequences):
    lm = make_lm(0)
    found = []
    for encode in (states, alone):
        lm.model.zero_grad()
        total = sum((s * torch.linspace(-1, 1, s.numel()).view_as(s)).sum() for s in encode(lm, sequences))
        total.backward()
        found.append({n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        assert torch.allclose(found[0][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


def test_neighbours_in_the_row_do_not_matter(make_lm):
    lm = make_lm(0)
    with torch.no_grad():
        first = states(lm, [tokens(20), APART[0], tokens(3)])[1]
        second = states(lm, [tokens(9), tokens(70), APART[0]])[2]
    assert torch.allclose(first, second, atol=1e-5)


def test_what_is_in_common_is_there_once():
    row = pack(TOGETHER[:3])
    assert row.ids.shape == (1, len(BEGINNING) + 20 + 1 + 9)
    assert [c[: len(BEGINNING)].tolist() for c in row.columns] == [list(range(40))] * 3
    assert row.position_ids[0].tolist() == [*range(60), 40, *range(40, 49)]
    twice = pack([BEGINNING, BEGINNING])
    assert twice.ids.shape == (1, 40) and twice.segments.sizes == [40]


def test_a_short_beginning_in_common_is_not_worth_it():
    almost = [np.concatenate([BEGINNING[: SHARED_AT_LEAST - 1], tokens(5)]) for _ in range(2)]
    assert pack(almost).segments.contexts == [0, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=70), min_size=1, max_size=8), st.integers(1, 150))
def test_columns_hold_their_sequences_and_batches_every_sequence_once(lists, token_budget):
    sequences = [np.array(x) for x in lists]
    groups = packed_batches(sequences, token_budget)
    assert sorted(i for group in groups for i in group) == list(range(len(sequences)))
    for group in groups:
        assert len(group) == 1 or sum(len(sequences[i]) for i in group) <= token_budget
        row = pack([sequences[i] for i in group])
        for i, columns in zip(group, row.columns, strict=True):
            assert row.ids[0, columns].tolist() == lists[i]
            assert row.position_ids[0, columns].tolist() == list(range(len(lists[i])))
        assert sum(row.segments.sizes) == row.ids.shape[1]


def test_sequences_that_begin_alike_are_neighbours():
    shuffled = [TOGETHER[i] for i in (7, 0, 5, 3, 1, 6, 2, 4)]
    groups = packed_batches([*shuffled, np.zeros(0, dtype=np.int64)], 10_000)
    row = pack([shuffled[i] for i in groups[0]])
    assert len(groups) == 1
    assert row.ids.shape[1] == len({tuple(s[: n + 1]) for s in TOGETHER for n in range(len(s))}) + SHARED_AT_LEAST - 1


@pytest.mark.parametrize("token_budget", [1, 90, 10_000])
def test_scores_do_not_depend_on_what_is_shared(make_lm, token_budget):
    lm = make_lm(0)
    positions = [np.arange(1, len(s)) for s in TOGETHER]
    wanted = score_tokens(padded(lm), TOGETHER, positions, top_k=3, entropy=True)
    found = score_tokens(lm, TOGETHER, positions, top_k=3, entropy=True, token_budget=token_budget)
    for a, b in zip(found, wanted, strict=True):
        assert a.lt == pytest.approx(b.lt, abs=1e-5)
        assert a.top_lt == pytest.approx(b.top_lt, abs=1e-5)
        assert a.entropy == pytest.approx(b.entropy, abs=1e-4)


# Other models


def other_model(tokenizer, kind: str) -> LanguageModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=256))
    else:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=400, max_position_embeddings=512, **shape, **heads))
    return LanguageModel(model.eval(), tokenizer, kind)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_other_architectures_give_the_same(tokenizer, kind):
    lm = other_model(tokenizer, kind)
    with torch.no_grad():
        for a, b in zip(states(lm, TOGETHER), alone(lm, TOGETHER), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_model_whose_attention_cannot_be_replaced_is_padded(make_lm, monkeypatch):
    lm = make_lm(0)
    monkeypatch.setattr(lm.model.model.layers[1].self_attn, "forward", lambda hidden_states, **_: (hidden_states, None))
    assert not lm.packs and not lm.caches and lm.model.config._attn_implementation == "sdpa"
    kernels = make_lm(0)
    kernels.model.config._attn_implementation = "flash_attention_2"
    assert not kernels.packs and not kernels.caches


def test_a_model_that_comes_out_wrong_when_packed_is_padded(make_lm, monkeypatch):
    sdpa = AttentionInterface()["sdpa"]
    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION, sdpa)  # does not know of segments
    lm = make_lm(0)
    assert not lm.packs and lm.model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        for a, b in zip(states(lm, APART), alone(lm, APART), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_saved_model_does_not_name_our_attention(make_lm, tmp_path):
    lm = make_lm(0)
    assert lm.packs
    lm.save(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


def layer(row: packing.Packed) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """A layer whose four heads share two keys, and its query, key and value for `row`."""
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    return module, [torch.randn(1, heads, row.ids.shape[1], 8) for heads in (4, 2, 2)]


def by_definition(parts, columns, window, softcap, sinks) -> torch.Tensor:
    """`[T, A, D]`: attention within the sequence at `columns`, token by token."""
    query, key, value = (x[0][:, columns] for x in parts)
    key, value = (x.repeat_interleave(2, dim=0) for x in (key, value))
    found = []
    for t in range(query.shape[1]):
        seen = slice(0 if window is None else max(0, t - window + 1), t + 1)
        logits = torch.einsum("ad,akd->ak", query[:, t], key[:, seen]) * 0.3
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        weights = logits.exp()
        total = weights.sum(-1, keepdim=True) + (0 if sinks is None else sinks.exp()[:, None])
        found.append(torch.einsum("ak,akd->ad", weights / total, value[:, seen]))
    return torch.stack(found)


@pytest.mark.parametrize("queries", [3, 256])
@pytest.mark.parametrize("window", [None, 1, 6, 30, 1000])
@pytest.mark.parametrize("kind", ["plain", "capped", "with sinks"])
def test_attention_is_what_it_is_defined_as(monkeypatch, window, kind, queries):
    monkeypatch.setattr(packing, "QUERIES", queries)
    row = pack(TOGETHER)
    module, parts = layer(row)
    softcap, sinks = (0.7 if kind == "capped" else None), (torch.randn(4) if kind == "with sinks" else None)
    how = {"scaling": 0.3, "sliding_window": window, "softcap": softcap, "s_aux": sinks}
    found, _ = packed_attention(module, *parts, None, segments=row.segments, **how)
    for columns in row.columns:
        wanted = by_definition(parts, columns, window, softcap, sinks)
        assert torch.allclose(found[0, columns], wanted, atol=1e-5)


@pytest.mark.parametrize("window", [None, 6])
def test_the_variable_length_kernel_is_given_what_it_asks_for(monkeypatch, window):
    """A plain stand-in for it, after its documentation, against the calls per sequence."""

    def stand_in(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        before, after = window_size
        assert after == 0 and enable_gqa and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        found = []
        for i in range(len(cu_seq_q) - 1):
            q = query[cu_seq_q[i] : cu_seq_q[i + 1]]
            k, v = (x[cu_seq_k[i] : cu_seq_k[i + 1]].repeat_interleave(2, dim=1) for x in (key, value))
            assert 0 < len(q) <= max_q and len(k) <= max_k
            seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))  # aligned at the end
            if before >= 0:
                seen = seen.triu(len(k) - len(q) - before)
            weight = torch.einsum("qhd,khd->hqk", q, k) * scale
            found.append(torch.einsum("hqk,khd->qhd", weight.masked_fill(~seen, -torch.inf).softmax(-1), v))
        return torch.cat(found)

    monkeypatch.setattr(packing, "varlen_attn", stand_in)
    for sequences in (APART, TOGETHER):
        row = pack(sequences)
        module, (query, key, value) = layer(row)
        how = {"scaling": 0.3, "sliding_window": window}
        wanted, _ = packed_attention(module, query, key, value, None, segments=row.segments, **how)
        found = packing._variable_length(query, key, value, 0.3, window, row.segments)
        assert torch.allclose(found, wanted, atol=1e-5)
