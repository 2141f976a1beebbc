"""The replayed decoding pass against the plain one.

Without a GPU a program is kept and run again where a graph would be replayed: buffers, rounding and capturing again are
the same, and a program that depended on anything but its tensors would show.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerBase

from trpd_agents.config import ModelConfig, RolloutConfig
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Request, Sampling, TransformersEngine
from trpd_agents.rollout.captured import Program, rounded
from trpd_agents.rollout.open_engine import check_engine


class Recorded:
    """Stands in for CUDA graphs; like them it runs the program once ahead and reads nothing but memory later."""

    def __init__(self) -> None:
        self.programs = 0

    def __call__(self, program: Program) -> Program:
        self.programs += 1
        program()
        return program


def converse(engine: TransformersEngine, sampling: Sampling, conversations: int, turns: int) -> list[object]:
    """Turns of a changing part of the conversations, so that others wait in the cache; all that was said."""
    rng = np.random.default_rng(5)
    said: list[object] = []
    for turn in range(turns):
        live = [c for c in range(conversations) if (c + turn) % 3 or turn in (0, turns - 1)]
        feeds = {c: rng.integers(3, 262, int(rng.integers(2, 40))).tolist() for c in live}
        said += engine.generate([Request(c, feeds[c], key=c) for c in live], sampling)
        engine.release([c for c in live if c % 5 == turn and turn])
    return said


def windowed(tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """A model with sinks in its attention, and a window of 12 tokens in one of two layers."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(vocab_size=len(tokenizer), sliding_window=12, initializer_range=0.3, **shape, **heads)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GptOssForCausalLM(config).eval()
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.sinks)
    return LanguageModel(model, tokenizer, "windowed")


@pytest.mark.parametrize("kind", ["plain", "windowed"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replaying_gives_what_the_plain_pass_gives(make_lm, tokenizer, ends, temperature, kind):
    lm = make_lm() if kind == "plain" else windowed(tokenizer)
    sampling = Sampling(max_new_tokens=7, end_ids=ends, temperature=temperature, seed=3)
    plain = converse(TransformersEngine(lm), sampling, 9, 8)
    recorded = Recorded()
    replayed = converse(TransformersEngine(lm, recorded), sampling, 9, 8)
    assert [c.tokens for c in replayed] == [c.tokens for c in plain]
    assert [c.stop for c in replayed] == [c.stop for c in plain]
    found, wanted = (np.concatenate([c.logprobs for c in said]) for said in (replayed, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert 1 < recorded.programs < 30


def test_a_program_is_used_again_until_its_memory_is_gone(make_lm):
    sampling = Sampling(max_new_tokens=6, end_ids=frozenset(), seed=0)
    recorded = Recorded()
    engine = TransformersEngine(make_lm(), recorded)
    engine.generate([Request(c, [5, 6, 7], key=c) for c in range(4)], sampling)
    assert recorded.programs == 1
    engine.generate([Request(c, [8], key=c) for c in range(3)], sampling)  # three rows are rounded up to four
    assert recorded.programs == 1
    engine.release(range(4))
    engine.generate([Request(c, [5, 6, 7], key=c) for c in range(4)], sampling)
    assert recorded.programs == 2


def test_a_program_sees_new_weights(make_lm):
    sampling = Sampling(max_new_tokens=5, end_ids=frozenset(), temperature=0.0, seed=0)
    lm = make_lm()
    engine = TransformersEngine(lm, Recorded())
    engine.generate([Request(0, [5, 6, 7], key=0)], sampling)
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(0.5).add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    found = engine.generate([Request(0, [9], key=0), Request(1, [5, 6, 7, 9], key=1)], sampling)
    alone = TransformersEngine(lm).generate([Request(1, [5, 6, 7, 9], key=1)], sampling)
    assert found[1].tokens == alone[0].tokens


def test_rows_are_rounded_to_few_sizes():
    assert [rounded(n) for n in (1, 2, 3, 5, 33, 64, 65, 129, 256)] == [1, 2, 4, 8, 64, 64, 128, 192, 256]
    assert len({rounded(n) for n in range(1, 257)}) == 10


def test_cuda_graphs_need_a_gpu():
    config = RolloutConfig(engine={"kind": "transformers", "cuda_graphs": True})
    with pytest.raises(UserError, match=r"cuda_graphs is true, but the student is on 'cpu'; wanted a GPU"):
        check_engine(config, "builtin:tiny", ModelConfig(model="builtin:tiny"), torch.device("cpu"))
