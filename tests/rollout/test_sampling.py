"""Summing up in blocks draws what inverting the whole cumulative distribution draws."""

from __future__ import annotations

import pytest
import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.rollout import Sampling
from trpd_agents.rollout.sampling import BLOCK, sample

ROWS = 64


@pytest.mark.parametrize("vocab", [1, 6, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 17, 5000])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_draws_are_those_of_the_definition(vocab, temperature):
    generator = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(ROWS, vocab, generator=generator)
    logits[:, ::3] = -torch.inf if vocab > 1 else 0.0
    keys, positions = torch.arange(ROWS), torch.arange(ROWS) % 7
    sampling = Sampling(max_new_tokens=1, end_ids=frozenset(), seed=5, temperature=temperature)
    token, logprob = sample(logits, sampling, keys, positions)
    logp = logits.log_softmax(-1)
    if temperature:
        running = (logits / temperature).double().softmax(-1).cumsum(-1)
        draws = uniform(5, keys, positions)[:, None] * running[:, -1:]
        wanted = (running > draws).int().argmax(-1)
    else:
        wanted = logits.argmax(-1)
    assert token.tolist() == wanted.tolist()
    assert torch.allclose(logprob, logp[torch.arange(ROWS), token], atol=1e-5)
    assert logprob.dtype == torch.float32


@pytest.mark.parametrize("draw", [0.0, 0.25, 1 - 2**-53])
def test_no_draw_takes_an_impossible_token(draw, monkeypatch):
    logits = torch.full((3, 3 * BLOCK), -torch.inf)
    logits[0, [BLOCK + 3, BLOCK + 9]] = 0.0  # first and last blocks without any mass
    logits[1, [0, 3 * BLOCK - 1]] = torch.tensor([0.0, -40.0])
    logits[2, [5, 2 * BLOCK + 1]] = torch.tensor([-80.0, 80.0])
    monkeypatch.setattr(
        "trpd_agents.rollout.sampling.uniform", lambda *names: torch.full((3,), draw, dtype=torch.float64)
    )
    token, logprob = sample(logits, Sampling(1, frozenset()), torch.arange(3), torch.arange(3))
    assert torch.isfinite(logits[torch.arange(3), token]).all() and torch.isfinite(logprob).all()


def test_an_answer_in_half_precision_is_summed_in_single_precision():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    token, logprob = sample(logits, Sampling(1, frozenset()), torch.arange(4), torch.arange(4))
    assert torch.allclose(logprob, logits.float().log_softmax(-1)[torch.arange(4), token], atol=1e-6)
