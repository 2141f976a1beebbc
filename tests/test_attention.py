"""One query against many keys, computed as attention is defined, and the same by SDPA."""

from __future__ import annotations

import pytest
import torch

from trpd_agents import attention
from trpd_agents.attention import attend, band


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_decoding_gives_the_same_either_way(monkeypatch, dtype, groups):
    generator = torch.Generator().manual_seed(groups)
    query = torch.randn(5, 4, 1, 8, generator=generator).to(dtype)
    storage = torch.randn(2, 9, groups, 40, 8, generator=generator).to(dtype)
    key, value = storage[:, :5, :, 3:30]  # neither whole rows nor from the first column on
    unseen = torch.arange(27) > torch.tensor([[0], [4], [12], [20], [26]])
    mask = torch.zeros(5, 1, 1, 27, dtype=dtype).masked_fill_(unseen[:, None, None], -torch.inf)
    module = torch.nn.Module()
    module.num_key_value_groups = 4 // groups
    found = []
    for many in (0, 1 << 30):
        monkeypatch.setattr(attention, "MANY", many)
        found.append(attend(module, query, key, value, mask, scaling=0.4, is_causal=False))
    assert found[0].shape == (5, 1, 4, 8) and found[0].dtype == dtype
    assert torch.allclose(*found, atol=1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("window", [1, 3, 20])
def test_a_band_is_what_each_token_sees(window):
    rows = band(5, window, torch.device("cpu"))
    for i, row in enumerate(rows):  # token i is at position i + window - 1 of the keys
        assert row.nonzero()[:, 0].tolist() == list(range(i, i + window))
