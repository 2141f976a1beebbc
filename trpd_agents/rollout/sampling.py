"""Drawing tokens from logits by inverting the cumulative distribution.

Invariant: a row's token is decided by its logits and one counter-based uniform number, never by the rest of the batch.
The distribution over the whole vocabulary is summed up in blocks, and only the block that the number falls into is
cumulated token by token: one pass over the logits, and no second tensor in double precision.
"""

from __future__ import annotations

import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.rollout.engine import Sampling

BLOCK = 128  # tokens


def sample(
    logits: torch.Tensor, sampling: Sampling, keys: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampled ids `[R]` and their temperature-1 log-probabilities `[R]`, float32, nats.

    Args:
        logits: `[R, V]` in any floating dtype; summed in float32.
        keys: int64 `[R]`, each row's random stream.
        positions: int64 `[R]`, the place of the token in its conversation.
    """
    logits = logits.float()
    top = logits.amax(-1, keepdim=True)
    mass = (logits - top).exp_()
    blocks = _block_sums(mass)
    log_total = blocks.sum(-1).log().float()
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        if sampling.temperature != 1:
            mass = ((logits - top) / sampling.temperature).exp_()
            blocks = _block_sums(mass)
        draws = uniform(sampling.seed, keys, positions).to(logits.device)
        token = _invert(mass, blocks, draws)
    return token, logits.gather(-1, token[:, None])[:, 0] - top[:, 0] - log_total


def _block_sums(mass: torch.Tensor) -> torch.Tensor:
    """Float64 `[R, ceil(V / BLOCK)]`: sums of `mass` `[R, V]` over consecutive blocks."""
    rows, size = mass.shape
    whole = size - size % BLOCK
    sums = mass[:, :whole].view(rows, -1, BLOCK).sum(-1) if whole else mass.new_zeros(rows, 0)
    if whole < size:
        sums = torch.cat([sums, mass[:, whole:].sum(-1, keepdim=True)], dim=-1)
    return sums.double()


def _invert(mass: torch.Tensor, blocks: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The first token `[R]` at which the running sum of `mass` `[R, V]` exceeds the share `draws` `[R]` of it all."""
    up_to = blocks.cumsum(-1)
    wanted = draws[:, None] * up_to[:, -1:]
    block = torch.searchsorted(up_to, wanted, right=True).clamp_(max=blocks.shape[-1] - 1)
    inside = blocks.gather(-1, block)
    # What is left to go, as a share of the block: its sum in float32 differs from the sum of its tokens in the last
    # bits. Below 1 by the smallest step, so that rounding cannot lead past the last token that has any mass.
    share = ((wanted - (up_to.gather(-1, block) - inside)) / inside).clamp_(0, 1 - 2**-53)
    tokens = block * BLOCK + torch.arange(BLOCK, device=mass.device)
    last = mass.shape[-1] - 1
    running = mass.gather(-1, tokens.clamp(max=last)).double().masked_fill_(tokens > last, 0).cumsum(-1)
    offset = torch.searchsorted(running, share * running[:, -1:], right=True)
    return (block + 0)[:, 0] * BLOCK + offset[:, 0]
