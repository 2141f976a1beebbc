"""Every family of architectures against its own plain forward pass: states, logits, gradients and conversations.

The models are random and tiny, with windows of 8 tokens, so that every sequence is longer than they reach. What is
compared with is computed by the architecture's own attention (transformers' `eager`), one sequence at a time.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trpd_agents import packing, probes
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel, load_model, read_outline
from trpd_agents.rollout import Request, Sampling, TransformersEngine

WINDOW = 8
SLIDING: dict[str, Any] = {"sliding_window": WINDOW}
MIXED: dict[str, Any] = {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]}
HEAD: dict[str, Any] = {"head_dim": 16}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
COMPRESSED: dict[str, Any] = {  # keys and values of other sizes
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4},
}
LINEAR: dict[str, Any] = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
}
STATE: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}

CACHED: dict[str, dict[str, Any]] = {
    "apertus": {},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {**MIXED, "logit_scale": 0.3},
    "deepseek_v3": COMPRESSED,
    "ernie4_5": HEAD,
    "exaone4": {**MIXED, "sliding_window_pattern": 2},
    "gemma": HEAD,
    "gemma2": {**MIXED, **HEAD, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {**MIXED, **HEAD},
    "gemma3n_text": {  # its last layers look at the keys of earlier ones
        **{**SLIDING, **HEAD, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
        **{"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 200},
        **{"laurel_rank": 8, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 4},
    },
    "gemma4_text": {
        **{**SLIDING, **HEAD, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
        **{"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 200},
        **{"global_head_dim": 16, "num_global_key_value_heads": 1, "final_logit_softcapping": 3.0},
    },
    "glm4": HEAD,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {},
    "gpt_oss": {**EXPERTS, **MIXED, **HEAD},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": HEAD,
    "llama": {},
    "ministral": {**MIXED, **HEAD},
    "ministral3": {**SLIDING, **HEAD},
    "mistral": SLIDING,
    "mixtral": {**EXPERTS, **SLIDING},
    "olmo2": {},
    "olmo3": MIXED,
    "olmoe": EXPERTS,
    "phi": {},
    "phi3": SLIDING,
    "qwen2": {},
    "qwen2 with a window": {**SLIDING, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": HEAD,
    "qwen3_moe": {**EXPERTS, **HEAD},
    "seed_oss": HEAD,
    "smollm3": {**MIXED, "use_sliding_window": True},
    "starcoder2": SLIDING,
}
PADDED: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon_h1": {
        **{"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
        **{"mamba_expand": 1, "head_dim": 8, "lm_head_multiplier": 0.3},
    },
    "granitemoehybrid": {
        **{**EXPERTS, **STATE, "shared_intermediate_size": 32, "logits_scaling": 4.0},
        "layer_types": ["mamba", "attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "nemotron": {},  # its attention does not pass on what it does not know
    "qwen3_5_text": LINEAR,
    "qwen3_next": {**EXPERTS, **LINEAR, "shared_expert_intermediate_size": 32},
    "stablelm": {},
}
FAMILIES = CACHED | PADDED
REFUSED = ["hyperclovax", "modernbert-decoder"]

rng = np.random.default_rng(0)
PROMPT = rng.integers(3, 200, 30)
PROMPT_IDS = torch.from_numpy(PROMPT)[None]
SEQUENCES = [
    *(np.concatenate([PROMPT, rng.integers(3, 200, n)]) for n in (31, 2, 17)),
    np.concatenate([PROMPT[:20], rng.integers(3, 200, 3)]),  # a branch of a branch
    *(rng.integers(3, 200, n) for n in (44, 9, 1)),
]


def config_of(family: str, **more: Any) -> Any:
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    plain = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 512, **heads}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family.split()[0], **{**plain, **ends, **FAMILIES.get(family, {}), **more})
    config.initializer_range = 0.3  # the usual 0.02 gives nearly uniform distributions, in which mistakes hide
    return config


def build(family: str, attention: str | None = None, **more: Any) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(family, **more), attn_implementation=attention).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                torch.nn.init.normal_(parameter)
    return LanguageModel(model, None, family)


@functools.cache
def family_model(family: str) -> LanguageModel:
    return build(family, "eager" if family == "gemma2" else None)  # as load_model does for the sake of its caps


@functools.cache
def reference(family: str) -> LanguageModel:
    """The same weights under the architecture's own attention."""
    return build(family, "eager")


@torch.no_grad()
def plain_states(family: str, sequence: np.ndarray) -> torch.Tensor:
    return reference(family).model.base_model(torch.from_numpy(sequence)[None], use_cache=False).last_hidden_state[0]


@torch.no_grad()
def plain_logprobs(family: str, tokens: list[int]) -> torch.Tensor:
    """`[T, V]`: row t is the distribution that token t + 1 comes from."""
    return reference(family).model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(packing, "QUERIES", 16)  # so that a sequence beyond a window takes several


@pytest.mark.parametrize("family", FAMILIES)
def test_how_a_family_runs(family):
    lm = family_model(family)
    assert (lm.packs, lm.caches) == (family in CACHED, family in CACHED)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_in_company_are_those_alone(family):
    with torch.no_grad():
        hidden, rows = family_model(family).encode(SEQUENCES)
    for row, sequence in zip(rows, SEQUENCES, strict=True):
        assert torch.allclose(hidden[torch.from_numpy(row)], plain_states(family, sequence), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own(family):
    tokens = SEQUENCES[0].tolist()
    with torch.no_grad():
        found = reference(family).logits(plain_states(family, SEQUENCES[0])).log_softmax(-1)
    assert torch.allclose(found, plain_logprobs(family, tokens), atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_another_head_is_followed_by_the_same(family):
    lm, states = family_model(family), plain_states(family, PROMPT)
    other = copy.deepcopy(lm.model.get_output_embeddings())
    with torch.no_grad():
        assert torch.equal(lm.logits(states, other), lm.logits(states))
        other.weight.zero_()
        assert not lm.logits(states, other).any()


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "llama"])
def test_bfloat16_over_float32_weights(family):
    """As the learner computes on a GPU; a mistake in what is seen would be far more than the rounding."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden, rows = family_model(family).encode(SEQUENCES)
    hidden.float().sum().backward()
    for row, sequence in zip(rows, SEQUENCES, strict=True):
        wanted = plain_states(family, sequence)
        off = (hidden[torch.from_numpy(row)].float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        assert off.median() < 0.05


def gradients(lm: LanguageModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    lm.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_loss(family):
    lm, plain = family_model(family), reference(family)
    chosen = [s for s in SEQUENCES if len(s) > 1]
    weights = [torch.linspace(-1, 1, len(s) - 1) for s in chosen]
    targets = [torch.from_numpy(s[1:])[:, None] for s in chosen]
    hidden, rows = lm.encode(chosen)
    ours = [lm.logits(hidden[torch.from_numpy(row[:-1])]) for row in rows]
    theirs = [plain.model(torch.from_numpy(s)[None], use_cache=False).logits[0, :-1] for s in chosen]
    found, wanted = (
        gradients(
            model,
            sum(
                (x.log_softmax(-1).gather(1, t)[:, 0] * w).sum()
                for x, t, w in zip(logits, targets, weights, strict=True)
            ),
        )
        for model, logits in ((lm, ours), (plain, theirs))
    )
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()) + 1e-6), name


def converse(engine: TransformersEngine, sampling: Sampling) -> dict[int, tuple[list[int], list[int], list[float]]]:
    """Three rounds of five conversations: two with a beginning in common, one that joins late, one that leaves, one
    that waits. Of each: its tokens, which of them are sampled, and their log-probabilities."""
    draw = np.random.default_rng(5)
    said: dict[int, tuple[list[int], list[int], list[float]]] = {}
    begin = {
        0: [*PROMPT.tolist(), 5, 6],
        1: [*PROMPT.tolist(), 7],
        2: [9],
        3: draw.integers(3, 200, 45).tolist(),
        4: [8],
    }
    for live in ([0, 1, 2, 3], [0, 2, 3], [1, 2, 3, 4]):
        fed = {c: draw.integers(3, 200, int(draw.integers(1, 12))).tolist() if c in said else begin[c] for c in live}
        done = engine.generate([Request(c, fed[c], key=c) for c in live], sampling)
        for c, completion in zip(live, done, strict=True):
            tokens, places, logprobs = said.setdefault(c, ([], [], []))
            tokens += fed[c]
            places += range(len(tokens), len(tokens) + len(completion.tokens))
            tokens += completion.tokens
            logprobs += completion.logprobs
        if 0 in live and 2 in live and 1 not in live:
            engine.release([0])
    return said


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", CACHED)
def test_conversations_are_those_of_a_plain_loop(family, temperature):
    sampling = Sampling(max_new_tokens=6, end_ids=frozenset(range(3, 12)), temperature=temperature, seed=1)
    for tokens, places, logprobs in converse(TransformersEngine(family_model(family)), sampling).values():
        rows = plain_logprobs(family, tokens)[torch.tensor(places) - 1]
        wanted = rows.gather(1, torch.tensor(tokens)[places][:, None])[:, 0]
        assert torch.allclose(torch.tensor(logprobs), wanted, atol=1e-4)
        if temperature == 0:
            assert (rows.amax(-1) - wanted).max() < 1e-4  # 0, but for a tie


@pytest.mark.parametrize("family", ["qwen3_5_text", "bloom"])
def test_the_engine_refuses_what_its_cache_cannot_hold(family):
    with pytest.raises(UserError, match=rf"model '{family}' .*cannot go on from keys and values alone.*wanted"):
        TransformersEngine(family_model(family)).generate([Request(0, [5], key=0)], Sampling(1, frozenset()))


def test_the_trial_does_not_depend_on_where_it_comes_first():
    lm = build("gemma2")
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert lm.packs and lm.caches


@pytest.mark.parametrize("trial", ["packs", "caches", "remembers"])
def test_a_device_without_memory_says_nothing_about_a_model(trial, monkeypatch, caplog):
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise error

    lm = build("llama")
    assert lm._attention_replaced  # a trial of its own
    alone = probes._alone(lm, PROMPT)
    monkeypatch.setattr(probes, "_alone", lambda *_: alone)
    monkeypatch.setattr(lm.model.base_model, "forward", forward)
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        getattr(lm, trial)
    error = RuntimeError("shapes do not fit")
    with caplog.at_level("INFO", logger="trpd_agents"):
        assert not getattr(lm, trial)
    assert "llama cannot be fed the fast way: RuntimeError: shapes do not fit" in caplog.text


@pytest.mark.parametrize("told", [None, 300, 299])
def test_a_window_beyond_the_trial_sequences_is_looked_up(told):
    lm = build("qwen2", sliding_window=300, use_sliding_window=True, max_window_layers=0)
    for layer in lm.model.model.layers:
        layer.self_attn.sliding_window = told  # what it says; the mask it is given stays that of the 300
    assert lm.packs == lm.caches == (told == 300)


@pytest.mark.parametrize("family", REFUSED)
def test_an_unknown_change_of_the_logits_is_refused_by_name(family, tokenizer, tmp_path):
    lm = build(family, vocab_size=len(tokenizer), logits_scaling=0.3)
    LanguageModel(lm.model, tokenizer, family).save(tmp_path)
    with pytest.raises(UserError, match=rf"{type(lm.model).__name__}\) does not get its logits .*docs/models.md"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("family", ["gpt_oss", "gemma2", "lfm2"])
def test_a_saved_model_loads_and_runs_the_same(family, tokenizer, tmp_path):
    lm = build(family, vocab_size=len(tokenizer))
    LanguageModel(lm.model, tokenizer, family).save(tmp_path)
    loaded, plain = load_model(str(tmp_path)), build(family, "eager", vocab_size=len(tokenizer))
    assert torch.allclose(loaded.hidden(PROMPT_IDS), plain.hidden(PROMPT_IDS), atol=1e-5)  # caps are not lost
    assert loaded.packs == loaded.caches == (family in CACHED)
    with torch.no_grad():
        found, _ = loaded.encode([PROMPT])
        assert torch.allclose(found, plain.hidden(PROMPT_IDS)[0], atol=2e-4)


def test_the_documentation_lists_what_is_tested_here():
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    table = [line.split("|")[1:3] for line in text.partition("## Families")[2].splitlines() if line.startswith("|")]
    listed = {name: how.split(":")[0].strip() for how, names in table for name in re.findall(r"`([^`]+)`", names)}
    listed.pop("model_type")
    windows = {name for name, settings in CACHED.items() if "sliding_window" in settings}
    wanted = {name: "packed, cached" + ("; with sliding windows" if name in windows else "") for name in CACHED}
    del wanted["qwen2 with a window"]
    assert listed == wanted | dict.fromkeys(PADDED, "padded, plain") | dict.fromkeys(REFUSED, "refused")


def test_a_context_ends_where_positions_would_change(tokenizer, tmp_path):
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    config_of("phi3", rope_parameters=rope, original_max_position_embeddings=64).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert read_outline(str(tmp_path)).context == 64
