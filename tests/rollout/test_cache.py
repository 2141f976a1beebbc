"""Packing the cache changes where keys and values lie, never what attention makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trpd_agents.models import LanguageModel
from trpd_agents.rollout.cache import ConversationCache

LENGTHS = [[5, 2, 9, 3], [1, 0, 4, 2], [3, 6, 1, 0]]  # tokens fed to each of four conversations, block by block


@torch.no_grad()
def feed(lm: LanguageModel, batch: ConversationCache, blocks: list[list[int]]) -> torch.Tensor:
    """Feed one block per row, right-padded with garbage; the hidden state `[R, H]` of each row's last real token."""
    width = max(map(len, blocks))
    sizes = torch.tensor([len(block) for block in blocks])
    ids = torch.tensor([block + [9] * (width - len(block)) for block in blocks])
    live = torch.arange(width) < sizes[:, None]
    positions = batch.lengths[:, None] + (live.cumsum(1) - 1).clamp(min=0)
    batch.append(live)
    hidden = lm.model.base_model(
        input_ids=ids,
        attention_mask=batch.valid.long(),
        position_ids=positions,
        past_key_values=batch.cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[torch.arange(len(blocks)), (sizes - 1).clamp(min=0)]


def conversations(seed: int = 0) -> list[list[list[int]]]:
    """Tokens by block, then by row."""
    rng = np.random.default_rng(seed)
    return [[rng.integers(3, 262, n).tolist() for n in block] for block in LENGTHS]


def filled(lm: LanguageModel) -> tuple[ConversationCache, list[list[int]]]:
    """A cache with holes, and what each of its rows holds."""
    batch = ConversationCache([20, 21, 22, 23], 2, lm.device)
    history: list[list[int]] = [[] for _ in range(4)]
    for blocks in conversations():
        feed(lm, batch, blocks)
        for row, block in zip(history, blocks, strict=True):
            row += block
    return batch, history


@pytest.mark.parametrize("kept", [{20, 21, 22, 23}, {20, 22}, {21, 23}, {23}])
def test_attention_over_a_packed_cache_equals_a_plain_forward_pass(make_lm, kept):
    lm = make_lm(0)
    batch, history = filled(lm)
    batch.keep(kept)
    assert batch.conversations == sorted(kept)
    assert batch.lengths.tolist() == [len(history[c - 20]) for c in sorted(kept)]
    blocks = [[30 + c, 40, 50] for c in sorted(kept)]
    found = feed(lm, batch, blocks)
    for row, (c, block) in enumerate(zip(sorted(kept), blocks, strict=True)):
        with torch.no_grad():
            wanted = lm.hidden(torch.tensor([history[c - 20] + block]))[0, -1]
        assert torch.allclose(found[row], wanted, atol=1e-5)


def test_packing_again_and_again_changes_nothing(make_lm):
    lm = make_lm(0)
    batch, history = filled(lm)
    for kept in ({20, 21, 23}, {20, 23}, {20, 23}, {23}):
        batch.keep(kept)
    found = feed(lm, batch, [[31, 32]])[0]
    with torch.no_grad():
        wanted = lm.hidden(torch.tensor([history[3] + [31, 32]]))[0, -1]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_packing_closes_holes(make_lm):
    batch, history = filled(make_lm(0))
    assert batch.valid.shape[1] > max(map(len, history))
    batch.keep({21, 23})
    assert batch.valid.shape == (2, max(len(history[1]), len(history[3])))
    assert batch.valid.shape[1] == batch.cache.get_seq_length()
    first_hole = (~batch.valid).int().argmax(1)
    assert all(not row[int(hole) :].any() for row, hole in zip(batch.valid, first_hole, strict=True) if hole)


def test_long_conversations_outgrow_the_first_buffer(make_lm):
    lm = make_lm(0)
    batch = ConversationCache([0], 2, lm.device)
    tokens = np.random.default_rng(1).integers(3, 262, 300).tolist()
    for start in range(0, 300, 50):
        found = feed(lm, batch, [tokens[start : start + 50]])
    with torch.no_grad():
        assert torch.allclose(found[0], lm.hidden(torch.tensor([tokens]))[0, -1], atol=1e-5)
